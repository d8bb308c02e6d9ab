"""Parquet shards: which columns there are, and their rows as documents."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from uuid import UUID

import pyarrow as pa

from treadle.core.errors import DataError
from treadle.core.table.batches import (
    BATCH_ROWS,
    EMPTY_ID,
    LINE_SCHEMA,
    Mended,
    Reject,
    TableBatch,
    fitted,
)
from treadle.core.table.units import Source, Unit
from treadle.core.table.unnamed import name_of_text

if TYPE_CHECKING:
    import pyarrow.parquet as pq

__all__ = ["ShardColumns", "open_parquet", "parquet_batches", "shard_of"]

_ENCRYPTED = b"PARE"
_NO_UTF8 = "not UTF-8"
_MENDED = "bytes that are no UTF-8 were replaced"
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
        DataError: The text column is missing, or holds no text, or that of ids can hold none.
    """
    text, name = _place(schema, text_column), _place(schema, id_column)
    if text is None:
        raise DataError(
            f"'{file}' has no column '{text_column}' (it has: {', '.join(_names(schema))}); name "
            f"the one that holds the text with --text-column."
        )
    kind = _kind(schema, text)
    if not (_is_text(kind) or _is_bytes(kind) or pa.types.is_null(kind)):
        raise DataError(
            f"The column '{text_column}' of '{file}' holds {kind}, expected strings; name the one "
            f"that holds the text with --text-column."
        )
    if name is not None:
        kind = _kind(schema, name)
        if pa.types.is_nested(kind) or pa.types.is_boolean(kind):
            raise DataError(
                f"The column '{id_column}' of '{file}' holds {kind}, expected ids (strings or "
                f"numbers); name another with --id-column."
            )
    taken = {text.column} | ({name.column} if name else set())
    others: dict[str, int] = {}
    for place, field in enumerate(schema):
        if place not in taken and field.name not in ("id", "text", text_column, id_column):
            others.setdefault(field.name, place)
    fields = [pa.field(name, _movable(schema.field(n).type)) for name, n in others.items()]
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
    return _plain(kind)


def _plain(kind: pa.DataType) -> pa.DataType:
    """Return the type of the values, whatever they are wrapped in."""
    if isinstance(kind, pa.BaseExtensionType):
        return _plain(kind.storage_type)
    return _plain(kind.value_type) if pa.types.is_dictionary(kind) else kind


def _movable(kind: pa.DataType) -> pa.DataType:
    """Return the type with plain strings in place of views, of which no rows can be taken."""
    if kind in (pa.string_view(), pa.binary_view()):
        return pa.large_string() if kind == pa.string_view() else pa.large_binary()
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        inner = kind.value_field.with_type(_movable(kind.value_type))
        return pa.list_(inner) if pa.types.is_list(kind) else pa.large_list(inner)
    if pa.types.is_struct(kind):
        return pa.struct([one.with_type(_movable(one.type)) for one in kind])
    return kind


def _is_text(kind: pa.DataType) -> bool:
    return kind in (pa.string(), pa.large_string(), pa.string_view())


def _is_bytes(kind: pa.DataType) -> bool:
    is_fixed: bool = pa.types.is_fixed_size_binary(kind)
    return is_fixed or kind in (pa.binary(), pa.large_binary(), pa.binary_view())


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
    import pyarrow.compute as pc

    text, bad = _strings(_values(table, shard.text))
    ids, mended_ids = _ids(table, shard, text)
    columns, mends = {"id": ids, "text": text}, {row: [_MENDED] for row in mended_ids}
    for name, place in shard.others.items():
        column, changed, what = _sound(table.column(place))
        columns[name] = column.cast(_movable(column.type))
        for one in changed:
            mends.setdefault(one, []).append(what)
    for name, value in unit.partition:
        columns.setdefault(name, pa.array([value] * len(table), pa.large_string()))
    reasons = dict.fromkeys(pc.indices_nonzero(pc.equal(ids, "")).to_pylist(), EMPTY_ID)
    reasons |= dict.fromkeys(_blank(text), "empty")
    reasons |= dict.fromkeys(bad, _NO_UTF8)
    whole = pa.table(columns)
    if reasons:
        keep = [place for place in range(len(text)) if place not in reasons]
        whole = whole.take(pa.array(keep, pa.int64()))
    return TableBatch(
        fitted(whole, source.schema),
        [Reject(unit.name, row + place, reasons[place]) for place in sorted(reasons)],
        [
            Mended(unit.name, row + place, what)
            for place in sorted(mends)
            if place not in reasons
            for what in dict.fromkeys(mends[place])
        ],
    )


def _values(table: pa.Table, place: ColumnPath) -> pa.ChunkedArray:
    import pyarrow.compute as pc

    column = table.column(place.column)
    return pc.struct_field(column, list(place.inner)) if place.inner else column


def _strings(column: pa.ChunkedArray) -> tuple[pa.ChunkedArray, list[int]]:
    """Return the values as strings, and the rows of those that are none (they are null)."""
    content = _as_bytes(column)
    try:
        return content.cast(pa.large_string()), []
    except pa.ArrowInvalid:  # a single one refuses all of them
        found: list[str | None] = []
        bad = []
        for row, value in enumerate(content.to_pylist()):
            try:
                found.append(None if value is None else value.decode())
            except UnicodeDecodeError:
                found.append(None)
                bad.append(row)
        return pa.chunked_array([pa.array(found, pa.large_string())]), bad


def _as_bytes(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return strings, or what stands in place of them, as bytes: the way back checks them."""
    return _unwrapped(column).cast(pa.large_binary())


def _unwrapped(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return the values without what they are wrapped in; those of a dictionary as bytes."""
    if isinstance(column.type, pa.BaseExtensionType):
        return _unwrapped(column.cast(column.type.storage_type))
    if not pa.types.is_dictionary(column.type):
        return column
    kind = column.type.value_type
    kind = pa.large_binary() if _is_text(_plain(kind)) else kind
    chunks = [one.dictionary.cast(kind).take(one.indices) for one in column.chunks]
    return _unwrapped(pa.chunked_array(chunks, kind))


def _ids(
    table: pa.Table, shard: ShardColumns, text: pa.ChunkedArray
) -> tuple[pa.ChunkedArray, list[int]]:
    """Return the ids, those of the texts where there are none, and which ones had to be mended."""
    ids, bad = pa.nulls(len(table), pa.large_string()), list[int]()
    if shard.id is not None:
        ids, bad = _named(_values(table, shard.id))
    if not ids.null_count:
        return ids, bad
    filled = [
        name.as_py() if name.is_valid else _name_of(one)
        for name, one in zip(ids, text, strict=True)
    ]
    return pa.array(filled, pa.large_string()), bad


def _named(column: pa.ChunkedArray) -> tuple[pa.ChunkedArray, list[int]]:
    """Return ids as texts with every digit, and the rows of those that are no UTF-8."""
    import pyarrow.compute as pc

    kind = _plain(column.type)
    if pa.types.is_fixed_size_binary(kind):
        is_uuid = isinstance(column.type, pa.UuidType)
        names = [_hex(one, is_uuid) for one in _as_bytes(column).to_pylist()]
        return pa.array(names, pa.large_string()), []
    if not (_is_text(kind) or _is_bytes(kind)):
        numbers = _unwrapped(column).cast(pa.large_string())
        # To pandas a missing number is no number.
        is_none = pc.equal(numbers, "nan") if pa.types.is_floating(kind) else None
        nothing = pa.scalar(None, pa.large_string())
        return (numbers if is_none is None else pc.if_else(is_none, nothing, numbers)), []
    found, bad = _strings(column)
    if not bad:
        return found, []
    content, names = _as_bytes(column), found.to_pylist()
    for row in bad:
        names[row] = content[row].as_py().decode(errors="backslashreplace")
    return pa.array(names, pa.large_string()), bad


def _hex(value: bytes | None, is_uuid: bool) -> str | None:
    if value is None:
        return None
    return str(UUID(bytes=value)) if is_uuid else value.hex()


def _name_of(text: pa.LargeStringScalar) -> str:
    return name_of_text(text.as_buffer() if text.is_valid else b"")


def _sound(column: pa.ChunkedArray) -> tuple[pa.ChunkedArray, list[int], str]:
    """Return a column that can be read, the rows that had to be changed for it, and how."""
    try:
        column.validate(full=True)
    except pa.ArrowInvalid:
        return _replaced(column) if _is_text(_plain(column.type)) else _emptied(column)
    return column, [], ""


def _replaced(column: pa.ChunkedArray) -> tuple[pa.ChunkedArray, list[int], str]:
    found, bad = _strings(column)
    content, texts = _as_bytes(column), found.to_pylist()
    for row in bad:
        texts[row] = content[row].as_py().decode(errors="replace")
    return pa.array(texts, pa.large_string()).cast(column.type), bad, _MENDED


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
