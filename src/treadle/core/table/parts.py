"""Parquet out: parts cut by the documents alone, so that equal documents make equal bytes."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from treadle.core.disk import FULL
from treadle.core.errors import CapacityError

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["PartCut", "PartWriter", "cut", "refuse_full_disk", "write_parquet"]

_GROUP_DOCUMENTS = 8192
_GROUP_BYTES = 32 << 20
_PART_GROUPS = 16
_FORMAT = {"compression": "zstd", "compression_level": 1, "use_dictionary": ["drop_reason"]}
"""Texts do not repeat, so that a dictionary of them is work for nothing."""


class PartCut(NamedTuple):
    """Where row groups end, in documents, and where parts end, in row groups."""

    groups: npt.NDArray[np.int64]
    parts: npt.NDArray[np.int64]

    def bounds(self, part: int) -> tuple[int, int]:
        """Return the documents of a part: the first, and the one after the last."""
        edges = self.edges(part)
        return int(edges[0]), int(edges[-1])

    def edges(self, part: int) -> npt.NDArray[np.int64]:
        """Return where the row groups of a part begin and end."""
        first = self.parts[part - 1] if part else 0
        before = self.groups[first - 1 : first] if first else np.zeros(1, np.int64)
        return np.concatenate([before, self.groups[first : self.parts[part]]])


def cut(num_bytes: npt.NDArray[np.int64]) -> PartCut:
    """Cut documents of these sizes into row groups of 8192 or 32 MB, and parts of 16 of them."""
    total = np.cumsum(num_bytes)
    groups: list[int] = []
    first = 0
    while first < len(total):
        limit = (total[first - 1] if first else 0) + _GROUP_BYTES
        stop = int(np.searchsorted(total, limit, side="right"))
        first = min(max(stop, first + 1), first + _GROUP_DOCUMENTS)
        groups.append(first)
    parts = [*range(_PART_GROUPS, len(groups), _PART_GROUPS), len(groups)] if groups else []
    return PartCut(np.array(groups, np.int64), np.array(parts, np.int64))


class PartWriter:
    """Writes one Parquet file, row group by row group, beside it and renamed when it is whole."""

    def __init__(self, file: Path, schema: "pa.Schema") -> None:
        import pyarrow.parquet as pq

        file.parent.mkdir(parents=True, exist_ok=True)
        self._file, self._beside = file, file.with_name(f".{file.name}.partial")
        with refuse_full_disk(file):
            self._writer = pq.ParquetWriter(self._beside, schema, **_FORMAT)

    def write(self, group: "pa.Table") -> None:
        """Write a row group; an empty one leaves no trace."""
        if len(group):
            with refuse_full_disk(self._file):
                self._writer.write_table(group.combine_chunks(), row_group_size=len(group))

    def close(self) -> None:
        """Make the file durable and give it its name."""
        with refuse_full_disk(self._file):
            self._writer.close()
        with self._beside.open("rb") as stream:
            os.fsync(stream.fileno())
        os.replace(self._beside, self._file)


def write_parquet(table: "pa.Table", file: Path) -> None:
    """Write a small table whole."""
    writer = PartWriter(file, table.schema)
    writer.write(table)
    writer.close()


@contextmanager
def refuse_full_disk(file: Path) -> Iterator[None]:
    """Turn the system's word for a full disk into one that says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise CapacityError(
            f"The disk is full while writing '{file}'; free some space, then give the same "
            f"command: it goes on where it stopped."
        ) from error
