"""The header of a GGUF file: its settings, and where its tensors lie.

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
from treadle.core.errors import CheckpointError, UnsupportedModelError
from treadle.core.mistaken import mistaken
from treadle.model.gguf.types import TENSOR_TYPES, name_of_type

__all__ = ["GgufPart", "GgufTensor", "read_part"]

_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_ALIGNMENT_BYTES = 32
_MOST_AXES = 4
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


class GgufPart(NamedTuple):
    """What the header of one file says."""

    settings: dict[str, Any]
    tensors: dict[str, GgufTensor]


def read_part(path: Path, files: MappedFiles) -> GgufPart:
    """Read the header of a file, which is a whole model or a part of one.

    Raises:
        CheckpointError: The file is missing, no GGUF file, truncated or broken.
        UnsupportedModelError: A tensor's type is not read.
    """
    _require_gguf(path)
    num_bytes = path.stat().st_size
    whole = TensorInfo("", "U8", (num_bytes,), path, 0, num_bytes)
    walker = _Walker(path, files.view(whole).data)
    try:
        settings, described = walker.read()
    except (UnicodeDecodeError, KeyError, RecursionError) as error:
        raise CheckpointError(
            f"'{path}' has a broken header ({error!r}, near byte {walker.place}); {_COPY_AGAIN}."
        ) from error
    tensors, end, alignment = {}, walker.place, _alignment(path, settings)
    first_byte = end = -(-walker.place // alignment) * alignment
    for name, shape, kind, offset in described:
        if name in tensors:
            raise CheckpointError(f"'{path}' has two tensors '{name}'; {_COPY_AGAIN}.")
        tensors[name] = _tensor(path, num_bytes, (name, shape, kind), first_byte + offset)
        _require_place(path, name, (first_byte + offset, end))
        end = first_byte + offset + tensors[name].raw.num_bytes
        end = -(-end // alignment) * alignment
    _require_all_described(path, num_bytes - end, alignment)
    return GgufPart(settings, tensors)


def _require_gguf(path: Path) -> None:
    if not path.is_file():
        raise CheckpointError(f"There is no file '{path}'; check the path.")
    with path.open("rb") as stream:
        found = stream.read(len(_MAGIC))
    if found == _MAGIC:
        return
    if what := mistaken(path):
        raise CheckpointError(f"'{path}' is {what}.")
    raise CheckpointError(
        f"'{path}' begins with {found!r}, but a GGUF file begins with {_MAGIC!r}; give a GGUF "
        f"file, or {_COPY_AGAIN}."
    )


def _alignment(path: Path, settings: dict[str, Any]) -> int:
    found = settings.get("general.alignment", _ALIGNMENT_BYTES)
    is_whole = isinstance(found, int) and not isinstance(found, bool) and found > 0
    if is_whole and found & (found - 1) == 0:
        return int(found)
    raise CheckpointError(
        f"'{path}' says general.alignment: {found!r:.60}, but a power of two was expected; "
        f"{_COPY_AGAIN}."
    )


def _tensor(
    path: Path, available: int, said: tuple[str, tuple[int, ...], int], start_byte: int
) -> GgufTensor:
    name, shape, kind = said
    if kind not in TENSOR_TYPES:
        raise UnsupportedModelError(
            f"Tensor '{name}' in '{path}' is of the type {name_of_type(kind)}, but only "
            f"{', '.join(t.name for t in TENSOR_TYPES.values())} are read; take the file in "
            f"another of the types that it is offered in, such as Q4_K_M."
        )
    type_name, block, block_bytes = TENSOR_TYPES[kind]
    if not 0 < len(shape) <= _MOST_AXES or 0 in shape or shape[-1] % block:
        raise CheckpointError(
            f"Tensor '{name}' in '{path}' has the shape {list(shape)}, but {type_name} comes in "
            f"rows of whole blocks of {block}, along 1 to {_MOST_AXES} axes; {_COPY_AGAIN}."
        )
    rows, row_bytes = math.prod(shape[:-1]), shape[-1] // block * block_bytes
    num_bytes = rows * row_bytes
    if start_byte + num_bytes > available:
        raise CheckpointError(
            f"'{path}' is truncated: tensor '{name}' ends at byte {start_byte + num_bytes}, but "
            f"the file has {available} bytes; {_COPY_AGAIN}."
        )
    raw = TensorInfo(name, "U8", (rows, row_bytes), path, start_byte, num_bytes)
    return GgufTensor(type_name, shape, raw)


def _require_place(path: Path, name: str, places: tuple[int, int]) -> None:
    """Require that a tensor begins where the one before it ends, as in all that llama.cpp loads."""
    found, expected = places
    if found != expected:
        how = "overlaps the one before it" if found < expected else "leaves a gap"
        raise CheckpointError(
            f"Tensor '{name}' in '{path}' {how}: it begins at byte {found}, but {expected} was "
            f"expected; {_COPY_AGAIN}."
        )


def _require_all_described(path: Path, num_beyond: int, alignment: int) -> None:
    if num_beyond >= alignment:
        raise CheckpointError(
            f"'{path}' goes on for {num_beyond} bytes beyond the tensors that its header counts; "
            f"{_COPY_AGAIN}."
        )


class _Walker:
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
        settings: dict[str, Any] = {}
        for _ in self._counted(num_settings):
            key, value = self._setting()
            if key in settings:
                raise CheckpointError(f"'{self._path}' says {key} twice; {_COPY_AGAIN}.")
            settings[key] = value
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
