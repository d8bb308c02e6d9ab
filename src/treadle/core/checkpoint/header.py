"""The safetensors header: where each tensor lies in a file, and how a file is laid out."""

import json
import math
import mmap
import struct
import threading
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from treadle.core.codec import DTYPES, Array
from treadle.core.errors import CheckpointError
from treadle.core.mistaken import mistaken

__all__ = ["MappedFiles", "PlannedTensor", "TensorInfo", "build_header", "read_header"]

_LENGTH_BYTES = 8
_ALIGNMENT_BYTES = 8
_MAP_NORESERVE = 0x4000  # Linux; the mmap module names it from Python 3.13 on
_COPY_AGAIN = "copy or download the file again"


class PlannedTensor(NamedTuple):
    """A tensor to be written; `dtype` is a safetensors code (see `treadle.core.codec.DTYPES`)."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def num_elements(self) -> int:
        """How many numbers the tensor holds."""
        return math.prod(self.shape)

    @property
    def num_bytes(self) -> int:
        """The bytes of those numbers."""
        return self.num_elements * DTYPES[self.dtype].itemsize


class TensorInfo(NamedTuple):
    """A tensor that lies in a file; `start_byte` counts from the file's beginning."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: Path
    start_byte: int
    num_bytes: int

    @property
    def num_elements(self) -> int:
        """How many numbers the tensor holds."""
        return math.prod(self.shape)


def read_header(file: Path) -> list[TensorInfo]:
    """Return the tensors of a safetensors file in the order in which they lie on disk.

    Raises:
        CheckpointError: the file is truncated or its header is broken.
    """
    num_file_bytes = file.stat().st_size
    with file.open("rb") as stream:
        prefix = stream.read(_LENGTH_BYTES)
        num_header_bytes = struct.unpack("<Q", prefix)[0] if len(prefix) == _LENGTH_BYTES else 0
        first_byte = _LENGTH_BYTES + num_header_bytes
        if len(prefix) < _LENGTH_BYTES or first_byte > num_file_bytes:
            _refuse_mistaken(file)
            raise CheckpointError(
                f"{file} is truncated: its header ends at byte {first_byte}, but the file has "
                f"{num_file_bytes} bytes; {_COPY_AGAIN}."
            )
        text = stream.read(num_header_bytes)
    try:
        entries = json.loads(text)
        _require_strings(entries.pop("__metadata__", {}))
        tensors = [_parse_entry(file, name, entry, first_byte) for name, entry in entries.items()]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        _refuse_mistaken(file)
        raise CheckpointError(
            f"{file} has a broken header ({error!r} in its JSON of {num_header_bytes} bytes); "
            f"{_COPY_AGAIN}."
        ) from error
    tensors.sort(key=lambda tensor: (tensor.start_byte, tensor.num_bytes))
    _check_extents(file, tensors, first_byte, num_file_bytes)
    return tensors


def _refuse_mistaken(file: Path) -> None:
    """Refuse a file of which can be said what it is instead."""
    if what := mistaken(file):
        raise CheckpointError(f"{file} is {what}.")


def _require_strings(metadata: Any) -> None:  # Any: a JSON value
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise ValueError("__metadata__ is no map of strings")


def _parse_entry(file: Path, name: str, entry: Any, first_byte: int) -> TensorInfo:
    dtype, shape = entry["dtype"], tuple(entry["shape"])
    start_byte, end_byte = entry["data_offsets"]
    if any(type(size) is not int or size < 0 for size in (*shape, start_byte, end_byte)):
        raise ValueError(f"the shape or offsets of {name!r} are no whole numbers from 0 on")
    if dtype not in DTYPES:
        raise CheckpointError(
            f"Tensor {name!r} in {file} has the unknown dtype {dtype!r}; convert it to one of: "
            f"{', '.join(DTYPES)}."
        )
    info = TensorInfo(name, dtype, shape, file, first_byte + start_byte, end_byte - start_byte)
    expected_bytes = info.num_elements * DTYPES[dtype].itemsize
    if info.num_bytes != expected_bytes:
        raise CheckpointError(
            f"Tensor {name!r} in {file} occupies bytes {start_byte}..{end_byte}, but {dtype} of "
            f"shape {list(shape)} takes {expected_bytes} bytes; {_COPY_AGAIN}."
        )
    return info


def _check_extents(
    file: Path, tensors: Sequence[TensorInfo], first_byte: int, num_file_bytes: int
) -> None:
    for former, latter in pairwise(tensors):
        if former.start_byte + former.num_bytes > latter.start_byte:
            raise CheckpointError(
                f"Tensors {former.name!r} and {latter.name!r} overlap in {file}; {_COPY_AGAIN}."
            )
    if tensors and (end_byte := tensors[-1].start_byte + tensors[-1].num_bytes) > num_file_bytes:
        raise CheckpointError(
            f"{file} is truncated: tensor {tensors[-1].name!r} ends at byte {end_byte}, but the "
            f"file has {num_file_bytes} bytes; {_COPY_AGAIN}."
        )
    named_bytes = sum(tensor.num_bytes for tensor in tensors)
    if first_byte + named_bytes != num_file_bytes:
        raise CheckpointError(
            f"The tensors in {file} take {named_bytes} bytes behind its header, but the file has "
            f"{num_file_bytes - first_byte} there, so that some belong to none; {_COPY_AGAIN}."
        )


def build_header(file: Path, planned: Sequence[PlannedTensor]) -> tuple[bytes, list[TensorInfo]]:
    """Return the header of a file that will hold `planned`, and where each tensor will lie.

    Wider types come first (otherwise the planned order stays), so that every tensor is aligned.
    """
    ordered = sorted(planned, key=lambda tensor: -DTYPES[tensor.dtype].itemsize)
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end_byte = 0
    for tensor in ordered:
        start_byte, end_byte = end_byte, end_byte + tensor.num_bytes
        entries[tensor.name] = {
            "dtype": tensor.dtype,
            "shape": list(tensor.shape),
            "data_offsets": [start_byte, end_byte],
        }
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % _ALIGNMENT_BYTES)
    first_byte = _LENGTH_BYTES + len(text)
    infos = [
        TensorInfo(
            tensor.name,
            tensor.dtype,
            tensor.shape,
            file,
            first_byte + entries[tensor.name]["data_offsets"][0],
            tensor.num_bytes,
        )
        for tensor in ordered
    ]
    return struct.pack("<Q", len(text)) + text, infos


class MappedFiles:
    """Views tensors over files that are mapped once, on first use, from any thread."""

    def __init__(self) -> None:
        self._maps: dict[Path, mmap.mmap] = {}
        self._lock = threading.Lock()

    def view(self, info: TensorInfo) -> Array:
        """Return a tensor as an array over its file; the map lives as long as the array."""
        with self._lock:
            if info.file not in self._maps:
                self._maps[info.file] = _map(info.file)
            mapped = self._maps[info.file]
        return np.ndarray(info.shape, DTYPES[info.dtype], buffer=mapped, offset=info.start_byte)

    def release(self, info: TensorInfo) -> None:
        """Let the pages of a tensor leave memory; its views stay valid and read the file again."""
        with self._lock:
            mapped = self._maps.get(info.file)
        first = -(-info.start_byte // mmap.PAGESIZE) * mmap.PAGESIZE
        num_bytes = info.start_byte + info.num_bytes - first
        if mapped is not None and num_bytes >= mmap.PAGESIZE:
            mapped.madvise(mmap.MADV_DONTNEED, first, num_bytes // mmap.PAGESIZE * mmap.PAGESIZE)

    def close(self) -> None:
        """Let go of the maps; each ends with its last view."""
        with self._lock:
            self._maps.clear()


def _map(file: Path) -> mmap.mmap:
    # A private writable map, not a read-only one: torch tensors cannot be marked read-only, and so
    # an in-place operation by mistake costs a page of memory instead of the process; the file never
    # changes. MAP_NORESERVE, or Linux refuses private maps larger than memory.
    with file.open("rb") as stream:
        return mmap.mmap(
            stream.fileno(),
            0,
            flags=mmap.MAP_PRIVATE | _MAP_NORESERVE,
            prot=mmap.PROT_READ | mmap.PROT_WRITE,
        )
