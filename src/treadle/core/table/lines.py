"""JSON lines, plain or compressed: regions of whole lines, read by the parser or by Python."""

import mmap
from codecs import BOM_UTF8
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from treadle.core.table import batches
from treadle.core.table.batches import (
    LINE_SCHEMA,
    Mended,
    Record,
    Reject,
    TableBatch,
    batched,
    fitted,
)
from treadle.core.table.mends import EMPTY_ID, NO_ID
from treadle.core.table.packed import unpacked
from treadle.core.table.records import NotJson, read_object, rest_of
from treadle.core.table.units import ParsedLines, Source, Unit
from treadle.core.table.unnamed import name_of_text

__all__ = ["fields_of_texts", "line_batches"]

Bytes = npt.NDArray[np.uint8]
_NO_TEXT = "no text in its field"
_TOO_LONG = "longer than a document may be"
_LOOKED_AT = 100
"""Records whose fields are named where none has a text."""
_DOCUMENT, _EMPTY = 0, 2
_LINE_END = b"\n"


def line_batches(source: Source, unit: Unit) -> Iterator[TableBatch]:
    """Yield the documents of a unit of JSON lines."""
    row = unit.first_row
    for region in _plain_regions(unit) if unit.kind == "lines" else _stream_regions(unit):
        if region is None:
            yield TableBatch(source.schema.empty_table(), [Reject(unit.name, row, _TOO_LONG)], [])
            row += 1
            continue
        start = 0
        while start < len(region) and (parsed := _parsed(source, region[start:])):
            found = _batch_of(parsed, source, unit, row)
            if found is None:
                break
            yield found
            start += parsed.num_bytes
            row += parsed.ends.shape[1]
        lines = region[start:].tobytes().split(_LINE_END) if start < len(region) else [b""]
        if not lines[-1]:
            lines.pop()
        yield from batched(_records(source, unit, row, lines), source.schema)
        row += len(lines)


def fields_of_texts(unit: Unit) -> list[str]:
    """Return the names of fields that hold texts in the first records of a unit of JSON lines."""
    regions = _plain_regions(unit) if unit.kind == "lines" else _stream_regions(unit)
    found: dict[str, None] = {}
    region = next(regions, None)
    lines = [] if region is None else region.tobytes().split(_LINE_END)
    for line in lines[:_LOOKED_AT]:
        try:
            found |= dict.fromkeys(read_object(line).names_of_texts())
        except NotJson:
            continue
    return list(found)


def _parsed(source: Source, content: Bytes) -> "ParsedLines | None":
    if source.parser is None or len(content) > batches.MAX_DOCUMENT_BYTES:
        return None
    return source.parser(content, source.text_column, source.id_column)


def _batch_of(parsed: ParsedLines, source: Source, unit: Unit, row: int) -> TableBatch | None:
    """Return what was parsed; None if an id is empty or the rest of an object no JSON."""
    chosen = np.flatnonzero(parsed.kinds == _DOCUMENT)
    ends = np.concatenate([np.zeros((3, 1), np.int64), parsed.ends[:, chosen]], axis=1)
    if (parsed.is_named[chosen] & (np.diff(ends[1]) == 0)).any():
        return None
    texts = _strings(parsed.texts, ends[0])
    ids = _strings(parsed.ids[: ends[1, -1]].copy(), ends[1])
    if not parsed.is_named[chosen].all():
        ids = _named(ids, parsed.texts, ends[0], parsed.is_named[chosen])
    try:
        metas, mended = _metas(parsed.rests, ends[2], chosen + row, unit)
    except NotJson:
        return None
    rejects = [
        Reject(unit.name, row + line, "empty")
        for line in np.flatnonzero(parsed.kinds == _EMPTY).tolist()
    ]
    table = pa.Table.from_arrays([ids, texts, metas], schema=LINE_SCHEMA)
    return TableBatch(fitted(table, source.schema), rejects, mended)


def _strings(content: Bytes, ends: npt.NDArray[np.int64]) -> pa.Array:
    ends = np.ascontiguousarray(ends)
    return pa.LargeStringArray.from_buffers(
        len(ends) - 1, pa.py_buffer(ends), pa.py_buffer(content)
    )


def _named(
    ids: pa.Array, texts: Bytes, ends: npt.NDArray[np.int64], is_named: npt.NDArray[np.bool_]
) -> pa.Array:
    """Return the ids with those of the texts where a line has none."""
    content, names = memoryview(texts), ids.to_pylist()  # type: ignore[arg-type]  # a buffer
    for line in np.flatnonzero(~is_named).tolist():
        names[line] = name_of_text(content[ends[line] : ends[line + 1]])
    return pa.array(names, pa.large_string())


def _metas(
    rests: Bytes, ends: npt.NDArray[np.int64], rows: npt.NDArray[np.int64], unit: Unit
) -> tuple[pa.Array, list[Mended]]:
    """Return the rests as Python would write them, and what was replaced in them.

    Raises:
        NotJson: One of them is none.
    """
    if not ends[-1] and not unit.partition:
        return pa.nulls(len(ends) - 1, pa.large_string()), []
    content, extra = rests[: ends[-1]].tobytes(), dict(unit.partition)
    found: list[str | None] = []
    mended = []
    for start, stop, row in zip(ends[:-1].tolist(), ends[1:].tolist(), rows.tolist(), strict=True):
        meta, mends = rest_of(content[start:stop] or b"{}", extra)
        found.append(meta)
        mended += [Mended(unit.name, row, what) for what in mends]
    return pa.array(found, pa.large_string()), mended


def _records(
    source: Source, unit: Unit, row: int, lines: list[bytes]
) -> Iterator[Record | Reject | Mended]:
    for number, line in enumerate(lines, row):
        if len(line) > batches.MAX_DOCUMENT_BYTES:
            yield Reject(unit.name, number, _TOO_LONG)
        elif line.strip():
            try:
                record, mends = _record(source, unit, line)
            except NotJson as refusal:
                yield Reject(unit.name, number, str(refusal))
                continue
            yield from (Mended(unit.name, number, what) for what in mends)
            yield record


def _record(source: Source, unit: Unit, line: bytes) -> tuple[Record, list[str]]:
    """Return what a line says, and what was replaced in it.

    Raises:
        NotJson: It is no document; says why.
    """
    found = read_object(line)
    try:
        text = found.text(source.text_column)
    except KeyError:
        text = None
    if text is None:
        raise NotJson(_NO_TEXT)
    if not text or text.isspace():
        raise NotJson("empty")
    name, mends = found.name(source.id_column), list[str]()
    if name == "" or isinstance(name, bool | dict | list):
        mends.append(EMPTY_ID if name == "" else NO_ID)
        name = None
    name = name if name is None or type(name) is str else str(name)
    rest = found.rest(dict(unit.partition))
    return (name, text, rest), [*mends, *found.mends]


def _plain_regions(unit: Unit) -> Iterator[Bytes | None]:
    """Yield whole lines of a run of a file; None stands for one too long to hold."""
    with unit.files[0].open("rb") as stream:
        # The last array that looks into it closes the map.
        content = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    whole = np.frombuffer(content, np.uint8)
    start = unit.start
    if start == 0 and content[: len(BOM_UTF8)] == BOM_UTF8:
        start = len(BOM_UTF8)
    while start < unit.stop:
        end = content.find(_LINE_END, min(start + batches.BATCH_BYTES, unit.stop) - 1, unit.stop)
        stop = unit.stop if end < 0 else end + 1
        if stop - start > batches.MAX_DOCUMENT_BYTES:
            end = content.find(_LINE_END, start, stop)
            stop = stop if end < 0 else end + 1
        is_held = stop - start <= batches.MAX_DOCUMENT_BYTES + len(_LINE_END)
        yield whole[start:stop] if is_held else None
        start = stop


def _stream_regions(unit: Unit) -> Iterator[Bytes | None]:
    held: list[bytes] = []
    num_held, is_too_long = 0, False
    for chunk in _without_mark(unpacked(unit.files[0])):
        end = chunk.rfind(_LINE_END) + 1
        if end and is_too_long:
            yield None
            first = chunk.find(_LINE_END) + 1
            chunk, end, is_too_long = chunk[first:], end - first, False
        if end:
            yield np.frombuffer(b"".join([*held, chunk[:end]]), np.uint8)
            held, num_held = [], 0
        held.append(chunk[end:])
        num_held += len(chunk) - end
        if is_too_long or num_held > batches.MAX_DOCUMENT_BYTES:
            held, num_held, is_too_long = [], 0, True
    if is_too_long:
        yield None
    elif num_held:
        yield np.frombuffer(b"".join(held), np.uint8)


def _without_mark(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Yield a file's bytes without the byte order mark that may stand before them."""
    head = b""
    for chunk in chunks:
        head += chunk
        if len(head) >= len(BOM_UTF8):
            break
    yield head.removeprefix(BOM_UTF8)
    yield from chunks
