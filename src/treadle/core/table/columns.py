"""Columns of Arrow: what their values are under all wrapping, and the values as texts."""

import pyarrow as pa

__all__ = [
    "as_bytes",
    "is_bytes",
    "is_text",
    "movable_type",
    "plain_type",
    "strings_of",
    "unwrapped",
    "written",
]

_BEYOND = "<value out of range"
"""How Arrow begins what it writes for a time that no calendar has."""


def plain_type(kind: pa.DataType) -> pa.DataType:
    """Return the type of the values, whatever they are wrapped in."""
    if isinstance(kind, pa.BaseExtensionType):
        return plain_type(kind.storage_type)
    return plain_type(kind.value_type) if pa.types.is_dictionary(kind) else kind


def movable_type(kind: pa.DataType) -> pa.DataType:
    """Return the type with plain strings in place of views, of which no rows can be taken."""
    if kind in (pa.string_view(), pa.binary_view()):
        return pa.large_string() if kind == pa.string_view() else pa.large_binary()
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        inner = kind.value_field.with_type(movable_type(kind.value_type))
        return pa.list_(inner) if pa.types.is_list(kind) else pa.large_list(inner)
    if pa.types.is_struct(kind):
        return pa.struct([one.with_type(movable_type(one.type)) for one in kind])
    return kind


def is_text(kind: pa.DataType) -> bool:
    """Whether a type is one of strings."""
    return kind in (pa.string(), pa.large_string(), pa.string_view())


def is_bytes(kind: pa.DataType) -> bool:
    """Whether a type is one of bytes."""
    is_fixed: bool = pa.types.is_fixed_size_binary(kind)
    return is_fixed or kind in (pa.binary(), pa.large_binary(), pa.binary_view())


def strings_of(column: pa.ChunkedArray) -> tuple[pa.ChunkedArray, list[int]]:
    """Return the values as strings, and the rows of those that are none (they are null)."""
    content = as_bytes(column)
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


def as_bytes(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return strings, or what stands in place of them, as bytes: the way back checks them."""
    return unwrapped(column).cast(pa.large_binary())


def unwrapped(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return the values without what they are wrapped in; those of a dictionary as bytes."""
    if isinstance(column.type, pa.BaseExtensionType):
        return unwrapped(column.cast(column.type.storage_type))
    if not pa.types.is_dictionary(column.type):
        return column
    kind = column.type.value_type
    kind = pa.large_binary() if is_text(plain_type(kind)) else kind
    chunks = [one.dictionary.cast(kind).take(one.indices) for one in column.chunks]
    return unwrapped(pa.chunked_array(chunks, kind))


def written(values: pa.ChunkedArray) -> pa.ChunkedArray | pa.Array:
    """Return numbers and times as texts with every digit."""
    import pyarrow.compute as pc

    kind = values.type
    if pa.types.is_timestamp(kind) and kind.tz:
        values = values.cast(pa.timestamp(kind.unit, "UTC"))  # its zone may be unknown here
    texts, nothing = values.cast(pa.large_string()), pa.scalar(None, pa.large_string())
    if pa.types.is_floating(kind):  # to pandas a missing number is no number
        return pc.if_else(pc.equal(texts, "nan"), nothing, texts)
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        digits = values.cast(pa.int32() if kind == pa.date32() else pa.int64())
        digits = digits.cast(pa.large_string())
        return pc.if_else(pc.starts_with(texts, _BEYOND), digits, texts)
    return texts
