"""GGUF files: settings, a table of tensors, then the tensors; opened by their headers.

The gguf library's own reader makes several arrays of each of a vocabulary's strings, which takes
2 s for SmolLM2; this one walks over them in 0.1 s, and says where a damaged file ends.
"""

import math
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from treadle.core.checkpoint import TensorInfo
from treadle.core.checkpoint.header import MappedFiles
from treadle.core.codec import Array
from treadle.core.errors import CheckpointError, UnsupportedModelError
from treadle.core.mistaken import mistaken
from treadle.model.gguf.types import TENSOR_TYPES, name_of_type

__all__ = ["SUFFIX", "GgufFile", "GgufTensor"]

SUFFIX = ".gguf"
_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_ALIGNMENT_BYTES = 32
_COPY_AGAIN = "copy or download the file again"
_SCALARS = dict(enumerate("BbHhIif?")) | {10: "Q", 11: "q", 12: "d"}
"""GGUF's number of a value's type -> how `struct` calls it."""
_STRING, _ARRAY = 8, 9
_SIZE = struct.Struct("<Q")


class GgufTensor(NamedTuple):
    """A tensor of a GGUF file."""

    type: str
    """Its name among `TENSOR_TYPES`."""
    shape: tuple[int, ...]
    """In numpy's order: [out, in]."""
    raw: TensorInfo
    """Where its bytes lie: U8 [rows, bytes of a row]."""


class GgufFile:
    """A GGUF file, opened by its header.

    Attributes:
        path: The file.
        settings: Its metadata, by their keys.
        tensors: Name -> tensor, in the file's order.

    Raises:
        CheckpointError: The file is missing, no GGUF file, truncated or broken.
        UnsupportedModelError: A tensor's type is not read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.is_file():
            raise CheckpointError(f"There is no file '{path}'; check the path.")
        with path.open("rb") as stream:
            found = stream.read(len(_MAGIC))
        if found != _MAGIC:
            if what := mistaken(path):
                raise CheckpointError(f"'{path}' is {what}.")
            raise CheckpointError(
                f"'{path}' begins with {found!r}, but a GGUF file begins with {_MAGIC!r}; give a "
                f"GGUF file, or {_COPY_AGAIN}."
            )
        self._files, num_bytes = MappedFiles(), path.stat().st_size
        whole = TensorInfo("", "U8", (num_bytes,), path, 0, num_bytes)
        header = _Header(path, self._files.view(whole).data)
        try:
            self.settings, described = header.read()
        except (UnicodeDecodeError, KeyError, RecursionError) as error:
            raise CheckpointError(
                f"'{path}' has a broken header ({error!r}, near byte {header.place}); "
                f"{_COPY_AGAIN}."
            ) from error
        alignment = self.settings.get("general.alignment", _ALIGNMENT_BYTES)
        if isinstance(alignment, bool) or not isinstance(alignment, int) or alignment < 1:
            raise CheckpointError(
                f"'{path}' says general.alignment: {alignment!r:.60}, but a positive whole number "
                f"was expected; {_COPY_AGAIN}."
            )
        first_byte = -(-header.place // alignment) * alignment
        self.tensors = {
            name: self._tensor(name, shape, kind, first_byte + offset)
            for name, shape, kind, offset in described
        }

    def raw(self, name: str) -> Array:
        """Return a tensor's bytes [rows, bytes of a row], as a view over the mapped file."""
        return self._files.view(self.tensors[name].raw)

    def release(self, name: str) -> None:
        """Let a tensor's bytes leave memory; views stay valid and read the file again."""
        self._files.release(self.tensors[name].raw)

    def close(self) -> None:
        """Let go of the mapped file; views stay valid."""
        self._files.close()

    def _tensor(self, name: str, shape: tuple[int, ...], kind: int, start_byte: int) -> GgufTensor:
        if kind not in TENSOR_TYPES:
            raise UnsupportedModelError(
                f"Tensor '{name}' in '{self.path}' is of the type {name_of_type(kind)}, but only "
                f"{', '.join(t.name for t in TENSOR_TYPES.values())} are read; take the file in "
                f"another of the types that it is offered in, such as Q4_K_M."
            )
        type_name, block, block_bytes = TENSOR_TYPES[kind]
        if not shape or shape[-1] % block:
            raise CheckpointError(
                f"Tensor '{name}' in '{self.path}' has the shape {list(shape)}, but {type_name} "
                f"comes in rows of whole blocks of {block}; {_COPY_AGAIN}."
            )
        rows, row_bytes = math.prod(shape[:-1]), shape[-1] // block * block_bytes
        num_bytes, available = rows * row_bytes, self.path.stat().st_size
        if start_byte + num_bytes > available:
            raise CheckpointError(
                f"'{self.path}' is truncated: tensor '{name}' ends at byte "
                f"{start_byte + num_bytes}, but the file has {available} bytes; {_COPY_AGAIN}."
            )
        raw = TensorInfo(name, "U8", (rows, row_bytes), self.path, start_byte, num_bytes)
        return GgufTensor(type_name, shape, raw)


class _Header:
    """Walks over the bytes of a header."""

    def __init__(self, path: Path, data: memoryview) -> None:
        self._path, self._data = path, data
        self.place = len(_MAGIC)

    def read(self) -> tuple[dict[str, Any], list[tuple[str, tuple[int, ...], int, int]]]:
        """Return the settings, and name, shape, type and offset of each tensor."""
        version = self._scalar("I")
        if version not in _VERSIONS:
            raise CheckpointError(
                f"'{self._path}' is GGUF version {version} (or of a big-endian machine), but "
                f"versions {', '.join(map(str, _VERSIONS))} are read; convert the model again."
            )
        num_tensors, num_settings = self._scalar("Q"), self._scalar("Q")
        settings = dict(self._setting() for _ in self._counted(num_settings))
        return settings, [self._described() for _ in self._counted(num_tensors)]

    def _setting(self) -> tuple[str, Any]:
        return self._string(), self._value(self._scalar("I"))

    def _described(self) -> tuple[str, tuple[int, ...], int, int]:
        name, num_dimensions = self._string(), self._scalar("I")
        shape = tuple(reversed([int(self._scalar("Q")) for _ in self._counted(num_dimensions)]))
        return name, shape, int(self._scalar("I")), int(self._scalar("Q"))

    def _value(self, kind: int) -> Any:
        if kind == _STRING:
            return self._string()
        if kind != _ARRAY:
            return self._scalar(_SCALARS[kind])
        item, count = self._scalar("I"), self._scalar("Q")
        if item in _SCALARS:
            return list(struct.unpack(f"<{count}{_SCALARS[item]}", self._take(count, item)))
        if item == _STRING:
            return self._strings(count)
        return [self._value(item) for _ in self._counted(count)]

    def _scalar(self, code: str) -> Any:
        size = struct.calcsize(f"<{code}")
        self._require(size)
        self.place += size
        return struct.unpack_from(f"<{code}", self._data, self.place - size)[0]

    def _string(self) -> str:
        size = self._scalar("Q")
        self._require(size)
        self.place += size
        return str(bytes(self._data[self.place - size : self.place]), "utf-8")

    def _strings(self, count: int) -> list[str]:
        """Return many strings: vocabularies have hundreds of thousands."""
        self._require(count)
        found, data, place, end = [], self._data, self.place, len(self._data)
        unpack, size_bytes = _SIZE.unpack_from, _SIZE.size
        for _ in range(count):
            start = place + size_bytes
            place = start + unpack(data, place)[0] if start <= end else end + 1
            if place > end:
                break
            found.append(str(data[start:place], "utf-8"))
        self.place = min(place, end)
        self._require(place - self.place)
        return found

    def _take(self, count: int, item: int) -> bytes:
        size = count * struct.calcsize(f"<{_SCALARS[item]}")
        self._require(size)
        self.place += size
        return bytes(self._data[self.place - size : self.place])

    def _counted(self, count: int) -> Iterator[int]:
        """Count up to a number in the file, which is no larger than its bytes."""
        self._require(count)
        return iter(range(count))

    def _require(self, size: int) -> None:
        if self.place + size > len(self._data):
            raise CheckpointError(
                f"'{self._path}' is truncated: its header goes on beyond byte {self.place}, but "
                f"the file has {len(self._data)} bytes; {_COPY_AGAIN}."
            )
