"""One reader a format; that of JSON lines stands in `lines`."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from treadle.core.errors import DataError
from treadle.core.table import batches
from treadle.core.table.batches import (
    BATCH_ROWS,
    EMPTY_ID,
    LINE_SCHEMA,
    Record,
    Reject,
    TableBatch,
    batched,
    fitted,
)
from treadle.core.table.lines import line_batches
from treadle.core.table.unnamed import name_of_text
from treadle.core.table.warc import warc_records

if TYPE_CHECKING:
    import pyarrow.parquet as pq


from treadle.core.table.units import Source, Unit

__all__ = ["open_parquet", "read_unit", "shard_schema"]


def read_unit(source: Source, unit: Unit) -> Iterator[TableBatch]:
    """Yield the documents of a unit in their order."""
    if unit.kind == "parquet":
        yield from _parquet_batches(source, unit)
    elif unit.kind == "files":
        yield from batched(_file_records(unit), source.schema)
    elif unit.kind == "warc":
        yield from batched(warc_records(unit), source.schema)
    else:
        yield from line_batches(source, unit)


def _file_records(unit: Unit) -> Iterator[Record | Reject]:
    base = Path(unit.name)
    for file in unit.files:
        name = file.relative_to(base).as_posix()
        if file.stat().st_size > batches.MAX_DOCUMENT_BYTES:
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
        DataError: The text column is missing, or holds no text, or that of ids can hold none.
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
    if id_column in schema.names:
        kind = schema.field(id_column).type
        if pa.types.is_nested(kind) or pa.types.is_boolean(kind):
            raise DataError(
                f"The column '{id_column}' of '{file}' holds {kind}, expected ids (strings or "
                f"numbers); name another with --id-column."
            )
    others = [f for f in schema if f.name not in (text_column, id_column, "id", "text")]
    return (
        pa.schema([*list(LINE_SCHEMA)[:2], *others]) if others else pa.schema(list(LINE_SCHEMA)[:2])
    )


def _parquet_batches(source: Source, unit: Unit) -> Iterator[TableBatch]:
    import pyarrow.compute as pc

    row = unit.first_row
    with open_parquet(unit.files[0]) as opened:
        groups = opened.iter_batches(
            BATCH_ROWS, row_groups=range(unit.start, unit.stop), use_threads=False
        )
        for group in groups:
            table = pa.Table.from_batches([group])
            text = table[source.text_column].cast(pa.large_string())
            ids = _parquet_ids(table, source.id_column, text)
            others = [n for n in source.schema.names[2:] if n in table.schema.names]
            whole = pa.Table.from_arrays(
                [ids, text, *(table[n] for n in others)], names=["id", "text", *others]
            )
            blank = pc.fill_null(pc.equal(pc.utf8_ltrim_whitespace(_head(text)), ""), True)
            reasons = dict.fromkeys(pc.indices_nonzero(pc.equal(ids, "")).to_pylist(), EMPTY_ID)
            if pc.any(blank).as_py():
                reasons |= dict.fromkeys(_is_blank(text, blank), "empty")
            rejects = [Reject(unit.name, row + place, reasons[place]) for place in sorted(reasons)]
            if reasons:
                keep = [place for place in range(len(text)) if place not in reasons]
                whole = whole.take(pa.array(keep, pa.int64()))
            row += len(text)
            yield TableBatch(fitted(whole, source.schema), rejects)


def _head(text: pa.ChunkedArray) -> pa.ChunkedArray:
    import pyarrow.compute as pc

    return pc.utf8_slice_codeunits(text, 0, 64)


def _is_blank(text: pa.ChunkedArray, suspected: pa.ChunkedArray) -> list[int]:
    """Return which texts are null or white space throughout, among those that begin so."""
    places = [place for place, found in enumerate(suspected.to_pylist()) if found]
    return [place for place in places if not (text[place].as_py() or "").strip()]


def _parquet_ids(table: pa.Table, column: str, text: pa.ChunkedArray) -> pa.ChunkedArray:
    if column not in table.schema.names:
        return pa.array(map(_name_of, text), pa.large_string())
    ids = table[column].cast(pa.large_string())
    if ids.null_count:
        filled = [
            name.as_py() if name.is_valid else _name_of(one)
            for name, one in zip(ids, text, strict=True)
        ]
        return pa.array(filled, pa.large_string())
    return ids


def _name_of(text: pa.LargeStringScalar) -> str:
    return name_of_text(text.as_buffer() if text.is_valid else b"")
