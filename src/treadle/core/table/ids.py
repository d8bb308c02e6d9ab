"""Ids of rows: exact whatever type their column has, made of the text where there are none."""

from typing import NamedTuple
from uuid import UUID

import pyarrow as pa

from treadle.core.table.columns import (
    as_bytes,
    is_bytes,
    is_text,
    plain_type,
    strings_of,
    unwrapped,
    written,
)
from treadle.core.table.mends import EMPTY_ID, NO_ID, NO_UTF8
from treadle.core.table.unnamed import name_of_text

__all__ = ["Names", "names_of"]


class Names(NamedTuple):
    """Ids as texts, and for some rows what had to be replaced."""

    ids: "pa.ChunkedArray | pa.Array"
    mends: dict[int, str]


def names_of(column: pa.ChunkedArray | None, text: pa.ChunkedArray) -> Names:
    """Return the ids in a column, if there is one; where it has none, those made of the texts."""
    import pyarrow.compute as pc

    if column is None:
        found = Names(pa.nulls(len(text), pa.large_string()), {})
    elif _is_no_name(column.type):
        rows = pc.indices_nonzero(column.is_valid()).to_pylist()
        found = Names(pa.nulls(len(text), pa.large_string()), dict.fromkeys(rows, NO_ID))
    else:
        found = _named(column)
    empty = dict.fromkeys(pc.indices_nonzero(pc.equal(found.ids, "")).to_pylist(), EMPTY_ID)
    if not found.ids.null_count and not empty:
        return found
    filled = [
        _name_of(one) if row in empty or not name.is_valid else name.as_py()
        for row, (name, one) in enumerate(zip(found.ids, text, strict=True))
    ]
    return Names(pa.array(filled, pa.large_string()), {**found.mends, **empty})


def _is_no_name(kind: pa.DataType) -> bool:
    """Whether no value of a column is a text or a number."""
    plain = plain_type(kind)
    is_bool = pa.types.is_boolean(plain) or isinstance(kind, pa.Bool8Type)
    return is_bool or bool(pa.types.is_nested(plain))


def _named(column: pa.ChunkedArray) -> Names:
    """Return ids as texts with every digit, and which rows were no UTF-8."""
    kind = plain_type(column.type)
    if pa.types.is_fixed_size_binary(kind):
        is_uuid = isinstance(column.type, pa.UuidType)
        names = [_hex(one, is_uuid) for one in as_bytes(column).to_pylist()]
        return Names(pa.array(names, pa.large_string()), {})
    if not (is_text(kind) or is_bytes(kind)):
        return Names(written(unwrapped(column)), {})
    found, bad = strings_of(column)
    if not bad:
        return Names(found, {})
    content, names = as_bytes(column), found.to_pylist()
    for row in bad:
        names[row] = content[row].as_py().decode(errors="backslashreplace")
    return Names(pa.array(names, pa.large_string()), dict.fromkeys(bad, NO_UTF8))


def _hex(value: bytes | None, is_uuid: bool) -> str | None:
    if value is None:
        return None
    return str(UUID(bytes=value)) if is_uuid else value.hex()


def _name_of(text: pa.LargeStringScalar) -> str:
    return name_of_text(text.as_buffer() if text.is_valid else b"")
