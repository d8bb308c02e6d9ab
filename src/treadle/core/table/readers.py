"""One reader a format: batches of (id, text, ...), and a reason for every refused record."""

import gzip
import mmap
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple

import pyarrow as pa

from treadle.core.errors import DataError

if TYPE_CHECKING:
    import pyarrow.parquet as pq

    from treadle.core.table.source import Source, Unit

__all__ = [
    "LINE_SCHEMA",
    "MAX_DOCUMENT_BYTES",
    "Batch",
    "Reject",
    "open_parquet",
    "read_unit",
    "shard_schema",
]

MAX_DOCUMENT_BYTES = 256 << 20
"""Longer records are refused before they are held in memory."""
_NO_TEXT = "no text in its field"
_BATCH_BYTES = 4 << 20
_BATCH_ROWS = 8192
_CHUNK_BYTES = 1 << 20
_COMPRESSED_BYTES = 64 << 10
LINE_SCHEMA = pa.schema(
    [("id", pa.large_string()), ("text", pa.large_string()), ("meta", pa.large_string())]
)
"""Of JSON lines: whatever else a line says is one JSON text, so that no two shards can differ."""


class Reject(NamedTuple):
    """A record that is no document."""

    file: str
    row: int
    reason: str


class Batch(NamedTuple):
    """Some documents of a unit in their order, and what was refused among them."""

    table: pa.Table
    rejects: list[Reject]


def read_unit(source: "Source", unit: "Unit") -> Iterator[Batch]:
    """Yield the documents of a unit in their order."""
    if unit.kind == "parquet":
        yield from _parquet_batches(source, unit)
        return
    records = _file_records(unit) if unit.kind == "files" else _line_records(source, unit)
    yield from _batched(records, source.schema)


Record = tuple[str, str, str | None]


def _batched(records: Iterator[Record | Reject], schema: pa.Schema) -> Iterator[Batch]:
    ids: list[str] = []
    texts: list[str] = []
    metas: list[str | None] = []
    rejects: list[Reject] = []
    held = 0
    for record in records:
        if isinstance(record, Reject):
            rejects.append(record)
        else:
            name, text, meta = record
            ids.append(name)
            texts.append(text)
            metas.append(meta)
            held += len(text)
        if held >= _BATCH_BYTES or len(ids) + len(rejects) >= _BATCH_ROWS:
            yield Batch(_table((ids, texts, metas), schema), rejects)
            ids, texts, metas, rejects, held = [], [], [], [], 0
    if ids or rejects:
        yield Batch(_table((ids, texts, metas), schema), rejects)


def _table(columns: tuple[list[Any], ...], schema: pa.Schema) -> pa.Table:  # Any: text or None
    arrays = [pa.array(column, pa.large_string()) for column in columns]
    return _fitted(pa.Table.from_arrays(arrays, schema=LINE_SCHEMA), schema)


def _fitted(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """Return the table with the columns of the whole source; one that it lacks is null."""
    if table.schema == schema:
        return table
    have = set(table.schema.names)
    arrays = [
        table[field.name].cast(field.type)
        if field.name in have
        else pa.nulls(len(table), field.type)
        for field in schema
    ]
    return pa.Table.from_arrays(arrays, schema=schema)


def _line_records(source: "Source", unit: "Unit") -> Iterator[Record | Reject]:
    import orjson

    text_column, id_column = source.text_column, source.id_column
    lines = _plain_lines(unit) if unit.kind == "lines" else _stream_lines(unit)
    for row, line in enumerate(lines, unit.first_row):
        try:
            record = orjson.loads(line or b"")
            text = record.pop(text_column)
            if not text or text.isspace():
                yield Reject(unit.name, row, "empty" if text == "" or text else _NO_TEXT)
                continue
            name = record.pop(id_column, None)
        except (orjson.JSONDecodeError, AttributeError, TypeError, KeyError):
            if line is None or line.strip():
                yield Reject(unit.name, row, _why_no_record(line))
            continue
        if type(name) is not str:
            name = f"{unit.name}/{row}" if name is None else str(name)
        yield name, text, orjson.dumps(record).decode() if record else None


def _why_no_record(line: bytes | None) -> str:
    import orjson

    if line is None:
        return "longer than a document may be"
    try:
        record = orjson.loads(line)
    except orjson.JSONDecodeError:
        return _why_no_json(line)
    return _NO_TEXT if isinstance(record, dict) else "not a JSON object"


def _why_no_json(line: bytes) -> str:
    try:
        line.decode()
    except UnicodeDecodeError:
        return "not UTF-8"
    return "not JSON"


def _plain_lines(unit: "Unit") -> Iterator[bytes | None]:
    """Yield the lines of a run of a file; None stands for one too long to hold."""
    with unit.files[0].open("rb") as stream:
        content = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        with content:
            if unit.stop - unit.start <= MAX_DOCUMENT_BYTES:
                lines = content[unit.start : unit.stop].split(b"\n")
                yield from lines if lines[-1] else lines[:-1]
                return
            start = unit.start
            while start < unit.stop:
                end = content.find(b"\n", start, unit.stop)
                stop = unit.stop if end < 0 else end
                yield content[start:stop] if stop - start <= MAX_DOCUMENT_BYTES else None
                start = stop + 1


def _stream_lines(unit: "Unit") -> Iterator[bytes | None]:
    held, is_too_long = b"", False
    for chunk in _chunks(unit):
        *whole, rest = (held + chunk).split(b"\n")
        for line in whole:
            yield None if is_too_long or len(line) > MAX_DOCUMENT_BYTES else line
            is_too_long = False
        held = rest
        if is_too_long or len(held) > MAX_DOCUMENT_BYTES:
            held, is_too_long = b"", True
    if held or is_too_long:
        yield None if is_too_long else held


def _chunks(unit: "Unit") -> Iterator[bytes]:
    import zstandard

    file = unit.files[0]
    try:
        with file.open("rb") as raw:
            yield from _gzip_chunks(raw) if unit.kind == "gzip" else _zstd_chunks(raw)
    except (EOFError, OSError, zlib.error, zstandard.ZstdError) as error:
        raise DataError(
            f"'{file}' is damaged: {error}. Fetch the file again, or move it out of the source."
        ) from error


def _gzip_chunks(raw: IO[bytes]) -> Iterator[bytes]:
    with gzip.GzipFile(fileobj=raw) as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            yield chunk


def _zstd_chunks(raw: IO[bytes]) -> Iterator[bytes]:
    """Decode frame after frame; zstandard's own stream takes a cut file for a whole one."""
    import zstandard

    decoder, is_inside = zstandard.ZstdDecompressor().decompressobj(), False
    while chunk := raw.read(_COMPRESSED_BYTES):
        while chunk:
            is_inside = True
            yield decoder.decompress(chunk)
            chunk = decoder.unused_data if decoder.eof else b""
            if decoder.eof:
                decoder, is_inside = zstandard.ZstdDecompressor().decompressobj(), False
    if is_inside:
        raise EOFError("it ends in the middle of a frame")


def _file_records(unit: "Unit") -> Iterator[Record | Reject]:
    base = Path(unit.name)
    for file in unit.files:
        name = file.relative_to(base).as_posix()
        if file.stat().st_size > MAX_DOCUMENT_BYTES:
            yield Reject(name, 0, "longer than a document may be")
            continue
        content = file.read_bytes()
        if b"\0" in content:
            yield Reject(name, 0, "binary")
            continue
        try:
            text = content.decode("utf-8-sig")
        except UnicodeDecodeError:
            yield Reject(name, 0, "not UTF-8")
            continue
        yield (name, text, None) if text and not text.isspace() else Reject(name, 0, "empty")


@contextmanager
def open_parquet(file: Path) -> "Iterator[pq.ParquetFile]":
    """Open a Parquet file.

    Raises:
        DataError: It is damaged.
    """
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(file) as opened:
            yield opened
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(
            f"'{file}' is no whole Parquet file: {error}. Write it again, or move it out of the "
            f"source."
        ) from error


def shard_schema(schema: pa.Schema, file: Path, text_column: str, id_column: str) -> pa.Schema:
    """Return the columns of a Parquet shard as those of documents: id, text, then the others.

    Raises:
        DataError: The text column is missing, or holds no text.
    """
    if text_column not in schema.names:
        raise DataError(
            f"'{file}' has no column '{text_column}' (it has: {', '.join(schema.names)}); name the "
            f"one that holds the text with --text-column."
        )
    kind = schema.field(text_column).type
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        raise DataError(
            f"The column '{text_column}' of '{file}' holds {kind}, expected strings; name the one "
            f"that holds the text with --text-column."
        )
    others = [f for f in schema if f.name not in (text_column, id_column, "id", "text")]
    return (
        pa.schema([*list(LINE_SCHEMA)[:2], *others]) if others else pa.schema(list(LINE_SCHEMA)[:2])
    )


def _parquet_batches(source: "Source", unit: "Unit") -> Iterator[Batch]:
    import pyarrow.compute as pc

    row = unit.first_row
    with open_parquet(unit.files[0]) as opened:
        groups = opened.iter_batches(
            _BATCH_ROWS, row_groups=range(unit.start, unit.stop), use_threads=False
        )
        for group in groups:
            table = pa.Table.from_batches([group])
            text = table[source.text_column].cast(pa.large_string())
            ids = _parquet_ids(table, source.id_column, unit.name, row)
            others = [n for n in source.schema.names[2:] if n in table.schema.names]
            whole = pa.Table.from_arrays(
                [ids, text, *(table[n] for n in others)], names=["id", "text", *others]
            )
            blank = pc.fill_null(pc.equal(pc.utf8_ltrim_whitespace(_head(text)), ""), True)
            rejects = []
            if pc.any(blank).as_py():
                empty = _is_blank(text, blank)
                rejects = [Reject(unit.name, row + place, "empty") for place in empty]
                keep = [place for place in range(len(text)) if place not in set(empty)]
                whole = whole.take(pa.array(keep, pa.int64()))
            row += len(text)
            yield Batch(_fitted(whole, source.schema), rejects)


def _head(text: pa.ChunkedArray) -> pa.ChunkedArray:
    import pyarrow.compute as pc

    return pc.utf8_slice_codeunits(text, 0, 64)


def _is_blank(text: pa.ChunkedArray, suspected: pa.ChunkedArray) -> list[int]:
    """Return which texts are null or white space throughout, among those that begin so."""
    places = [place for place, found in enumerate(suspected.to_pylist()) if found]
    return [place for place in places if not (text[place].as_py() or "").strip()]


def _parquet_ids(table: pa.Table, column: str, name: str, row: int) -> pa.ChunkedArray:
    if column not in table.schema.names:
        return pa.array([f"{name}/{row + n}" for n in range(len(table))], pa.large_string())
    ids = table[column].cast(pa.large_string())
    if ids.null_count:
        filled = [value or f"{name}/{row + n}" for n, value in enumerate(ids.to_pylist())]
        return pa.array(filled, pa.large_string())
    return ids
