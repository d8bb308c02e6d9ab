"""Parquet shards: which columns there are, and their rows as documents."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pyarrow as pa

from treadle.core.errors import DataError
from treadle.core.table.batches import (
    BATCH_ROWS,
    LINE_SCHEMA,
    Mended,
    Reject,
    TableBatch,
    fitted,
)
from treadle.core.table.columns import (
    as_bytes,
    is_bytes,
    is_text,
    movable_type,
    plain_type,
    strings_of,
)
from treadle.core.table.ids import names_of
from treadle.core.table.mends import FOLDER_LOST, NO_UTF8
from treadle.core.table.recognise import refuse_mistaken
from treadle.core.table.units import Source, Unit

if TYPE_CHECKING:
    import pyarrow.parquet as pq

__all__ = ["ShardColumns", "open_parquet", "parquet_batches", "shard_of"]

_ENCRYPTED = b"PARE"
_NO_UTF8 = "not UTF-8"
_EMPTIED = "a nested value with bytes that are no UTF-8 became null"
_HEAD_CHARS = 64


@contextmanager
def open_parquet(file: Path) -> "Iterator[pq.ParquetFile]":
    """Open a Parquet file, with its checksums checked where it has some.

    Raises:
        DataError: It is damaged, or becomes unreadable on the way.
    """
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(file, page_checksum_verification=True) as opened:
            yield opened
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        if _is_encrypted(file):
            raise DataError(
                f"'{file}' is encrypted; decrypt it first, or move it out of the source."
            ) from error
        if file.is_file():
            refuse_mistaken(file, "parquet")
        raise DataError(
            f"'{file}' is no whole Parquet file: {error}. Write it again, or move it out of the "
            f"source."
        ) from error


def _is_encrypted(file: Path) -> bool:
    with file.open("rb") as stream:
        head = stream.read(len(_ENCRYPTED))
    return head == _ENCRYPTED or b"ENCRYPT" in head


class ColumnPath(NamedTuple):
    """A column, and the way to a field of it."""

    column: int
    inner: tuple[str, ...]


class ShardColumns(NamedTuple):
    """Where a Parquet file has what documents are made of."""

    text: ColumnPath
    id: ColumnPath | None
    others: dict[str, int]
    """Of each name the first column; text and id are none of them."""
    schema: pa.Schema
    """Of its documents: id, text, then the others."""
    repeated: tuple[str, ...]
    """Names that stand more than once."""


def shard_of(
    schema: pa.Schema, file: Path, text_column: str, id_column: str, partition: tuple[str, ...] = ()
) -> ShardColumns:
    """Return where the columns of documents are.

    Raises:
        DataError: The text column is missing, or holds no text.
    """
    text, name = _place(schema, text_column), _place(schema, id_column)
    if text is None:
        raise DataError(
            f"'{file}' has no column '{text_column}' (it has: {', '.join(_names(schema))}); name "
            f"the one that holds the text with --text-column."
        )
    kind = _kind(schema, text)
    if not (is_text(kind) or is_bytes(kind) or pa.types.is_null(kind)):
        raise DataError(
            f"The column '{text_column}' of '{file}' holds {kind}, expected strings; name the one "
            f"that holds the text with --text-column."
        )
    taken = {text.column} | ({name.column} if name else set())
    others: dict[str, int] = {}
    for place, field in enumerate(schema):
        if place not in taken and field.name not in ("id", "text", text_column, id_column):
            others.setdefault(field.name, place)
    fields = [pa.field(name, movable_type(schema.field(n).type)) for name, n in others.items()]
    fields += [pa.field(key, pa.large_string()) for key in partition if key not in others]
    names = schema.names
    return ShardColumns(
        text,
        name,
        others,
        pa.schema([*list(LINE_SCHEMA)[:2], *fields]),
        tuple(sorted({one for one in names if names.count(one) > 1})),
    )


def _place(schema: pa.Schema, column: str) -> ColumnPath | None:
    """Return where a column is; one that is named as in "meta.text" may be a field of another."""
    names = schema.names
    if column in names:
        return ColumnPath(names.index(column), ())
    outer, *inner = column.split(".")
    if outer not in names:
        return None
    place, kind = names.index(outer), schema.field(names.index(outer)).type
    for one in inner:
        if not pa.types.is_struct(kind) or kind.get_field_index(one) < 0:
            return None
        kind = kind.field(one).type
    return ColumnPath(place, tuple(inner)) if inner else None


def _kind(schema: pa.Schema, place: ColumnPath) -> pa.DataType:
    kind = schema.field(place.column).type
    for one in place.inner:
        kind = kind.field(one).type
    return plain_type(kind)


def _names(schema: pa.Schema) -> list[str]:
    """Return the columns, and the fields that lie in one."""
    found = []
    for field in schema:
        found.append(field.name)
        if pa.types.is_struct(field.type):
            found += [f"{field.name}.{one.name}" for one in field.type]
    return found


def parquet_batches(source: Source, unit: Unit) -> Iterator[TableBatch]:
    """Yield the rows of some row groups."""
    row = unit.first_row
    with open_parquet(unit.files[0]) as opened:
        shard = shard_of(opened.schema_arrow, unit.files[0], source.text_column, source.id_column)
        groups = opened.iter_batches(
            BATCH_ROWS, row_groups=range(unit.start, unit.stop), use_threads=False
        )
        for group in groups:
            yield _batch_of(pa.Table.from_batches([group]), shard, source, unit, row)
            row += len(group)


def _batch_of(
    table: pa.Table, shard: ShardColumns, source: Source, unit: Unit, row: int
) -> TableBatch:
    text, bad = strings_of(_values(table, shard.text))
    named = names_of(None if shard.id is None else _values(table, shard.id), text)
    columns, mends = {"id": named.ids, "text": text}, {n: [one] for n, one in named.mends.items()}
    for name, place in shard.others.items():
        column, changed, what = _sound(table.column(place))
        columns[name] = column.cast(movable_type(column.type))
        for one in changed:
            mends.setdefault(one, []).append(what)
    for name, value in unit.partition:
        for one in _others(columns[name], value) if name in columns else ():
            mends.setdefault(one, []).append(FOLDER_LOST)
        columns.setdefault(name, pa.array([value] * len(table), pa.large_string()))
    reasons = dict.fromkeys(_blank(text), "empty") | dict.fromkeys(bad, _NO_UTF8)
    whole = pa.table(columns)
    if reasons:
        keep = [place for place in range(len(text)) if place not in reasons]
        whole = whole.take(pa.array(keep, pa.int64()))
    return TableBatch(
        _fitted(whole, source.schema, unit.files[0]),
        [Reject(unit.name, row + place, reasons[place]) for place in sorted(reasons)],
        [
            Mended(unit.name, row + place, what)
            for place in sorted(mends)
            if place not in reasons
            for what in dict.fromkeys(mends[place])
        ],
    )


def _fitted(table: pa.Table, schema: pa.Schema, file: Path) -> pa.Table:
    try:
        return fitted(table, schema)
    except pa.ArrowInvalid as error:
        raise DataError(
            f"A column of '{file}' has other types in other shards, and a value that the type of "
            f"all together cannot hold: {error}. Cast the column to one type, or curate the shards "
            f"apart."
        ) from error


def _others(column: pa.ChunkedArray, value: str | None) -> list[int]:
    """Return the rows whose own field says something else than the folder that they lie in."""
    return [row for row, one in enumerate(column.to_pylist()) if one != value and str(one) != value]


def _values(table: pa.Table, place: ColumnPath) -> pa.ChunkedArray:
    import pyarrow.compute as pc

    column = table.column(place.column)
    return pc.struct_field(column, list(place.inner)) if place.inner else column


def _sound(column: pa.ChunkedArray) -> tuple[pa.ChunkedArray, list[int], str]:
    """Return a column that can be read, the rows that had to be changed for it, and how."""
    try:
        column.validate(full=True)
    except pa.ArrowInvalid:
        return _replaced(column) if is_text(plain_type(column.type)) else _emptied(column)
    return column, [], ""


def _replaced(column: pa.ChunkedArray) -> tuple[pa.ChunkedArray, list[int], str]:
    found, bad = strings_of(column)
    content, texts = as_bytes(column), found.to_pylist()
    for row in bad:
        texts[row] = content[row].as_py().decode(errors="replace")
    return pa.array(texts, pa.large_string()).cast(column.type), bad, NO_UTF8


def _emptied(column: pa.ChunkedArray) -> tuple[pa.ChunkedArray, list[int], str]:
    bad = []
    for row in range(len(column)):
        try:
            column.take(pa.array([row])).validate(full=True)
        except pa.ArrowInvalid:
            bad.append(row)
    places = [None if row in bad else row for row in range(len(column))]
    return column.take(pa.array(places, pa.int64())), bad, _EMPTIED


def _blank(text: pa.ChunkedArray) -> list[int]:
    """Return which texts are null or white space throughout."""
    import pyarrow.compute as pc

    head = pc.utf8_slice_codeunits(text, 0, _HEAD_CHARS)
    suspected = pc.fill_null(pc.equal(pc.utf8_ltrim_whitespace(head), ""), True)
    places = pc.indices_nonzero(suspected).to_pylist()
    return [place for place in places if not (text[place].as_py() or "").strip()]
