"""A safetensors file of tensors and a note, written and read tensor by tensor.

The state of a run is as large as what it trains three times over: the package's own functions hold
all of it once more in memory while they write or read.
"""

import json
import os
import struct
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    import torch

__all__ = ["StateFile", "write_state"]

_NOTE = "note"
_ALIGNMENT_BYTES = 64
_LENGTH = struct.Struct("<Q")
_KINDS = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "I64": "int64",
    "I32": "int32",
    "U8": "uint8",
    "BOOL": "bool",
}
"""safetensors' codes -> torch's names."""


def write_state(
    file: Path,
    tensors: "Mapping[str, torch.Tensor]",
    note: Mapping[str, Any],  # Any: JSON values
) -> None:
    """Write tensors and a note, and see to it that they are on the disk.

    Raises:
        OSError: The disk is full, or cannot be written.
    """
    ordered = sorted(tensors.items(), key=lambda entry: -entry[1].element_size())
    entries: dict[str, Any] = {"__metadata__": {"format": "pt", _NOTE: json.dumps(note)}}
    end = 0
    for name, tensor in ordered:
        begin, end = end, end + tensor.numel() * tensor.element_size()
        entries[name] = {
            "dtype": _code(tensor),
            "shape": list(tensor.shape),
            "data_offsets": [begin, end],
        }
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-(_LENGTH.size + len(text)) % _ALIGNMENT_BYTES)
    with file.open("wb") as stream:
        stream.write(_LENGTH.pack(len(text)) + text)
        for _, tensor in ordered:
            stream.write(_bytes(tensor))
        stream.flush()
        os.fsync(stream.fileno())


def _bytes(tensor: "torch.Tensor") -> memoryview:
    """Return the bytes of a tensor in main memory, without a copy where it lies there whole."""
    import torch

    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return memoryview(flat.view(torch.uint8).numpy().data)


class StateFile:
    """A file that `write_state` wrote, read tensor by tensor.

    Raises:
        OSError: It cannot be read.
        ValueError: It is no such file, or is cut off; likewise KeyError and TypeError.
    """

    def __init__(self, file: Path) -> None:
        self._stream = file.open("rb")
        try:
            (length,) = _LENGTH.unpack(self._read(_LENGTH.size))
            if length > file.stat().st_size:
                raise ValueError("its header is longer than the file")
            entries = json.loads(self._read(length))
            self.note: dict[str, Any] = json.loads(entries.pop("__metadata__")[_NOTE])
            self._entries: dict[str, Any] = entries
            self._first = _LENGTH.size + length
            end = max((entry["data_offsets"][1] for entry in entries.values()), default=0)
            if self._first + end != file.stat().st_size:
                raise ValueError(f"it has not the {self._first + end} bytes that its header says")
        except BaseException:
            self._stream.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._stream.close()

    @property
    def names(self) -> list[str]:
        """The names of all tensors."""
        return list(self._entries)

    def tensor(self, name: str) -> "torch.Tensor":
        """Return a tensor in memory of its own."""
        import torch

        entry = self._entries[name]
        begin, end = entry["data_offsets"]
        found = torch.empty(entry["shape"], dtype=_dtype(entry["dtype"]))
        place = found.reshape(-1).view(torch.uint8).numpy()
        if end - begin != place.nbytes:
            raise ValueError(f"'{name}' has {end - begin} bytes, and not {place.nbytes}")
        self._stream.seek(self._first + begin)
        if self._stream.readinto(place.data) != place.nbytes:
            raise ValueError(f"'{name}' is cut off")
        return found

    def _read(self, size: int) -> bytes:
        found = self._stream.read(size)
        if len(found) != size:
            raise ValueError("it is cut off")
        return found


def _dtype(code: str) -> "torch.dtype":
    import torch

    kind: torch.dtype = getattr(torch, _KINDS[code])
    return kind


def _code(tensor: "torch.Tensor") -> str:
    name = str(tensor.dtype).removeprefix("torch.")
    return next(code for code, kind in _KINDS.items() if kind == name)
