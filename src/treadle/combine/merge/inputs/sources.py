"""Where the numbers of a merge come from: tensors on disk, read as runs of float32."""

import os
import threading
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np
import numpy.typing as npt

from treadle.combine.merge.site import Chunk, Floats, Knowledge, Unit
from treadle.core.checkpoint import CheckpointReader, TensorInfo
from treadle.core.codec import DTYPES, FLOATS
from treadle.core.errors import CheckpointError, SettingsError
from treadle.native import elements

__all__ = [
    "CHUNK_ELEMENTS",
    "Inputs",
    "PiecedSource",
    "StoredSource",
    "TensorSource",
    "WeightFiles",
    "stored",
    "widest",
]

_WIDTHS = {"F64": 8, "F32": 4, "BF16": 2, "F16": 2, "F8_E4M3": 1, "F8_E5M2": 1}

CHUNK_ELEMENTS = 1 << 16
_MOST_HELD = 1 << 23
"""Numbers of one tensor's inputs that stay in memory, for each worker: what the last cache holds.
Beyond it, reading a tensor again just after costs no more than to fetch it from memory."""
_ROOMS: list[Floats] = []
"""Of tensors that are held, while none is: fresh memory would cost more than to read again."""
"""Elements of a run: a quarter of a megabyte of float32 for each input, so that a run of all of
them stays in a core's own cache. Sums over runs depend on it; it is a constant for that reason."""


class TensorSource(ABC):
    """One tensor of one input."""

    shape: tuple[int, ...]
    dtype: str
    """The safetensors code of the dtype it is stored in."""

    @abstractmethod
    def read(self, first: int, target: Floats) -> None:
        """Write the elements from `first` on into `target`.

        Raises:
            CheckpointError: One of them is NaN or infinite.
        """


class WeightFiles:
    """The weight files of all inputs, each opened once; reading takes no map and no lock."""

    def __init__(self) -> None:
        self._descriptors: dict[Path, int] = {}
        self._lock = threading.Lock()

    def read(self, file: Path, offset: int, target: npt.NDArray[np.uint8]) -> None:
        """Fill `target` with the bytes of a file from `offset` on."""
        descriptor, view = self._open(file), target.data
        while view:
            count = os.preadv(descriptor, [view], offset)
            if count == 0:
                self._refuse_end(file)
            view, offset = view[count:], offset + count

    def read_bf16(self, file: Path, offset: int, target: Floats) -> bool:
        """Fill `target` with the bfloat16 numbers from `offset` on; say whether all are finite."""
        try:
            return elements.read_bf16(self._open(file), offset, target)
        except EOFError:
            self._refuse_end(file)

    def _open(self, file: Path) -> int:
        with self._lock:
            if file not in self._descriptors:
                self._descriptors[file] = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
            return self._descriptors[file]

    def _refuse_end(self, file: Path) -> NoReturn:
        size = file.stat().st_size
        raise CheckpointError(f"{file} ends at byte {size}; copy or download it again.")

    def close(self) -> None:
        """Close all files."""
        with self._lock:
            while self._descriptors:
                os.close(self._descriptors.popitem()[1])


class StoredSource(TensorSource):
    """A tensor as it lies on disk."""

    def __init__(self, info: TensorInfo, files: WeightFiles) -> None:
        if info.dtype not in FLOATS:
            raise SettingsError(
                f"Tensor '{info.name}' in '{info.file}' holds {info.dtype}, but only floats can be "
                f"merged; dequantise the model first."
            )
        self.info, self.shape, self.dtype = info, info.shape, info.dtype
        self._files = files

    def read(self, first: int, target: Floats) -> None:
        """Read and widen a run."""
        offset = self.info.start_byte + first * DTYPES[self.dtype].itemsize
        if self.dtype == "BF16":
            is_sound = self._files.read_bf16(self.info.file, offset, target)
        else:
            self._read(offset, target)
            is_sound = elements.are_finite(target)
        if not is_sound:
            self._refuse(first, target)

    def _read(self, offset: int, target: Floats) -> None:
        if self.dtype == "F32":
            self._files.read(self.info.file, offset, target.view(np.uint8))
            return
        raw = np.empty(target.size, DTYPES[self.dtype])
        self._files.read(self.info.file, offset, raw.view(np.uint8))
        target[:] = raw

    def _refuse(self, first: int, target: Floats) -> None:
        position = int(np.argmin(np.isfinite(target)))
        raise CheckpointError(
            f"Tensor '{self.info.name}' in '{self.info.file}' holds {float(target[position])} at "
            f"element {first + position}, but finite numbers were expected; repair or retrain the "
            f"model, or leave it out."
        )


class PiecedSource(TensorSource):
    """A tensor that lies on disk as runs of others."""

    def __init__(self, shape: tuple[int, ...], parts: Sequence[tuple[StoredSource, int, int]]):
        """Make it of runs: of each the tensor, its first element and how many there are."""
        self.shape, self.dtype = shape, parts[0][0].dtype
        self._parts = parts
        self._ends = list(accumulate(count for _, _, count in parts))

    def read(self, first: int, target: Floats) -> None:
        """Read the runs that hold the elements, each into its place."""
        done = 0
        while done < target.size:
            place = bisect_right(self._ends, first + done)
            source, start, count = self._parts[place]
            inside = first + done - (self._ends[place] - count)
            size = min(count - inside, target.size - done)
            source.read(start + inside, target[done : done + size])
            done += size


def stored(reader: CheckpointReader, name: str, files: WeightFiles) -> StoredSource | None:
    """Return a tensor of a model, or None if the model has none of that name.

    A tied head is found under its own name.
    """
    info = reader.tensors.get(reader.tied.get(name, name))
    return None if info is None else StoredSource(info, files)


def widest(sources: Sequence[TensorSource]) -> str:
    """Return the dtype that holds the numbers of all: float32 where two of one width differ."""
    codes = {source.dtype for source in sources}
    most = max(_WIDTHS[code] for code in codes)
    found = {code for code in codes if _WIDTHS[code] == most}
    return found.pop() if len(found) == 1 else "F32"


class Inputs(NamedTuple):
    """One tensor of the output with its namesakes: the `Site` that methods see."""

    name: str
    models: tuple[TensorSource, ...]
    base: TensorSource | None
    keys: tuple[int, ...]
    knowledge: tuple[Knowledge, ...] = ()
    is_transposed: bool = False
    surveyed: Any = None
    held: "HeldRuns | None" = None
    """Runs that stay in memory from the first reading on."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape, the same in every input."""
        return self.models[0].shape

    @property
    def num_elements(self) -> int:
        """How many numbers the tensor holds."""
        return int(np.prod(self.shape, dtype=np.int64))

    def chunks(self, unit: Unit) -> Iterator[Chunk]:
        """Read the inputs once, in order, in runs that hold whole units; chunks are reused."""
        if self.held is not None:
            yield from self.held.chunks(self, unit)
            return
        step = self.step(unit)
        models = np.empty((len(self.models), step), np.float32)
        base = None if self.base is None else np.empty(step, np.float32)
        for first in range(0, self.num_elements, step):
            size = min(step, self.num_elements - first)
            # A last, shorter run gets its own rows: kernels want them whole.
            rows = models if size == step else np.empty((len(self.models), size), np.float32)
            yield self.read(Chunk(first, rows, None if base is None else base[:size]))

    def read(self, chunk: Chunk) -> Chunk:
        """Fill a run, and return it."""
        for source, row in zip(self.models, chunk.models, strict=True):
            source.read(chunk.first, row)
        if self.base is not None and chunk.base is not None:
            self.base.read(chunk.first, chunk.base)
        return chunk

    @contextmanager
    def holding(self) -> "Iterator[Inputs]":
        """Give the same tensor with runs that are read once, where they fit into the cache."""
        count = len(self.models) + (self.base is not None)
        if count * self.num_elements > _MOST_HELD:
            yield self
            return
        try:
            room = _ROOMS.pop()
        except IndexError:
            room = np.empty(_MOST_HELD, np.float32)
        try:
            yield self._replace(held=HeldRuns(room))
        finally:
            _ROOMS.append(room)

    def step(self, unit: Unit) -> int:
        """Return the elements of a run that holds whole units."""
        width = self.shape[-1] if self.shape else 1
        sizes = {
            "elements": CHUNK_ELEMENTS,
            "rows": max(1, CHUNK_ELEMENTS // max(1, width)) * width,
            "tensor": self.num_elements,
        }
        return max(1, min(sizes[unit], self.num_elements))


class HeldRuns:
    """The runs of one tensor, in memory that is used again for the next.

    Args:
        room: Where they are put; it has place for all.
    """

    def __init__(self, room: Floats) -> None:
        self._room = room
        self._unit: Unit | None = None
        self._num_used = 0
        self._chunks: list[Chunk] = []

    def chunks(self, inputs: Inputs, unit: Unit) -> Iterator[Chunk]:
        """Read the runs of `inputs`, or give them as they were read, and left, before."""
        if self._unit == unit:
            yield from self._chunks
            return
        self._unit, self._chunks, self._num_used = unit, [], 0
        step = inputs.step(unit)
        for first in range(0, inputs.num_elements, step):
            size = min(step, inputs.num_elements - first)
            models = self._cut(size * len(inputs.models)).reshape(-1, size)
            base = None if inputs.base is None else self._cut(size)
            self._chunks.append(inputs.read(Chunk(first, models, base)))
            yield self._chunks[-1]

    def _cut(self, count: int) -> Floats:
        self._num_used += count
        return self._room[self._num_used - count : self._num_used]
