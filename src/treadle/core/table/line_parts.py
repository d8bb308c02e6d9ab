"""JSON lines out: the same documents as in Parquet, one object a line."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from treadle.core.table.parts import refuse_full_disk
from treadle.core.table.records import NotJson, read_object

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["LineWriter", "PartFormat"]

PartFormat = Literal["parquet", "jsonl", "jsonl.zst"]
"""What parts are written as; also the end of their names."""
_META = "meta"
_LEVEL = 3


class LineWriter:
    """Writes one file of JSON lines, beside it and renamed when it is whole."""

    def __init__(self, file: Path) -> None:
        import zstandard

        file.parent.mkdir(parents=True, exist_ok=True)
        self._file, self._beside = file, file.with_name(f".{file.name}.partial")
        is_packed = file.name.endswith(get_args(PartFormat)[-1])
        self._compressor = (
            zstandard.ZstdCompressor(_LEVEL, write_checksum=True).compressobj()
            if is_packed
            else None
        )
        with refuse_full_disk(file):
            self._stream = self._beside.open("wb")

    def write(self, group: "pa.Table") -> None:
        """Write the documents of a table, a line each."""
        content = b"".join(_lines(group))
        with refuse_full_disk(self._file):
            self._stream.write(self._compressor.compress(content) if self._compressor else content)

    def close(self) -> None:
        """Make the file durable and give it its name."""
        with refuse_full_disk(self._file):
            if self._compressor:
                self._stream.write(self._compressor.flush())
            self._stream.flush()
            os.fsync(self._stream.fileno())
            self._stream.close()
        os.replace(self._beside, self._file)


def _lines(group: "pa.Table") -> list[bytes]:
    import orjson

    columns = {name: _values(group[name]) for name in group.column_names}
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    found = []
    for row in rows:
        said = row.pop(_META, None)
        meta = _fields_of(said, [name for name, value in row.items() if value is not None])
        if meta is None and said is not None:
            row[_META] = said
        if meta:  # a column of another shard gives way to the record's own field
            row = {key: one for key, one in row.items() if one is not None}
        head = orjson.dumps(row, default=_plain)
        found.append((head[:-1] + b"," + meta[1:] if meta else head) + b"\n")
    return found


def _values(column: "pa.ChunkedArray") -> list[Any]:  # Any: what stands in rows
    """Return a column's values, times that Python does not have as Arrow writes them."""
    import pyarrow as pa

    from treadle.core.table.columns import written

    # What becomes of nanoseconds would depend on whether pandas is installed.
    is_time = pa.types.is_timestamp(column.type) or pa.types.is_time(column.type)
    if is_time and column.type.unit == "ns":
        return list(written(column).to_pylist())
    try:
        return list(column.to_pylist())
    except (OverflowError, ValueError, KeyError):
        if not pa.types.is_temporal(column.type):
            raise
        return list(written(column).to_pylist())


def _fields_of(said: object, taken: list[str]) -> bytes | None:
    """Return what else JSON lines said, as JSON; None if there is nothing, or it is no object."""
    if not isinstance(said, str) or not said.startswith("{"):
        return None
    try:
        record = read_object(said.encode())
    except NotJson:
        return None
    record.set_apart(taken, f"{_META}.")
    rest = record.rest({})
    return rest.encode() if rest else b""


def _plain(value: Any) -> Any:  # Any: what JSON does not have
    from decimal import Decimal

    import orjson

    if isinstance(value, Decimal) and value.is_finite():
        return orjson.Fragment(format(value, "f"))
    return value.decode(errors="backslashreplace") if isinstance(value, bytes) else str(value)
