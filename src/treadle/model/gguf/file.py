"""GGUF files: settings and tensors, of one file or of all parts of a split one."""

import re
from pathlib import Path

from treadle.core.checkpoint import TensorInfo
from treadle.core.checkpoint.header import MappedFiles
from treadle.core.codec import Array
from treadle.core.errors import CheckpointError
from treadle.model.gguf.header import GgufPart, GgufTensor, read_part

__all__ = ["SUFFIX", "GgufFile", "GgufTensor", "part_paths"]

SUFFIX = ".gguf"
_PART = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf")
_DOWNLOAD_AGAIN = "download all parts of one model into one folder, by their names"


def part_paths(path: Path) -> list[Path]:
    """Return the files of the model that a file belongs to, by its name: mostly itself alone."""
    named = _PART.fullmatch(path.name)
    if named is None or not int(named["number"]) <= int(named["count"]):
        return [path]
    stem, count = named["stem"], named["count"]
    numbers = range(1, int(count) + 1)
    return [path.with_name(f"{stem}-{number:05d}-of-{count}{SUFFIX}") for number in numbers]


class GgufFile:
    """A GGUF file, opened by its header; of a split model, any part opens all.

    Attributes:
        path: The file.
        settings: Its metadata, by their keys; those of the first part.
        tensors: Name -> tensor, in the order of the files.

    Raises:
        CheckpointError: A file is missing, no GGUF file, truncated or broken, or the parts do not
            belong together.
        UnsupportedModelError: A tensor's type is not read.
    """

    def __init__(self, path: Path) -> None:
        self.path, self._files = path, MappedFiles()
        own = read_part(path, self._files)
        paths = _parts_of(path, own)
        parts = [own if part == path else read_part(part, self._files) for part in paths]
        _require_of_one_model(paths, parts)
        self.settings, self.tensors = parts[0].settings, _all_tensors(paths, parts)

    def raw(self, name: str) -> Array:
        """Return a tensor's bytes [rows, bytes of a row], as a view over the mapped file."""
        return self.view(self.tensors[name].raw)

    def view(self, raw: TensorInfo) -> Array:
        """Return bytes of a tensor, or of a part of it."""
        return self._files.view(raw)

    def release(self, raw: TensorInfo) -> None:
        """Let such bytes leave memory; views stay valid and read the file again."""
        self._files.release(raw)

    def close(self) -> None:
        """Let go of the mapped files; views stay valid."""
        self._files.close()


def _count(path: Path, part: GgufPart, key: str, default: int) -> int:
    found = part.settings.get(key, default)
    if isinstance(found, bool) or not isinstance(found, int) or found < 0:
        raise CheckpointError(
            f"'{path}' says {key}: {found!r:.60}, but a whole number was expected; "
            f"{_DOWNLOAD_AGAIN}."
        )
    return found


def _parts_of(path: Path, own: GgufPart) -> list[Path]:
    """Return the parts of the model that a file is one of."""
    count = _count(path, own, "split.count", 1)
    if count <= 1:
        return [path]
    paths = part_paths(path)
    if len(paths) != count:
        raise CheckpointError(
            f"'{path}' is one of {count} parts of a model, but its name does not say which; name "
            f"them NAME-00001-of-{count:05d}.gguf and so on, as they were made."
        )
    missing = [part for part in paths if not part.is_file()]
    if missing:
        raise CheckpointError(
            f"'{path}' is one of {count} parts of a model, but '{missing[0].name}' is missing "
            f"({len(missing)} of {count}); download it into '{path.parent}'."
        )
    return paths


def _require_of_one_model(paths: list[Path], parts: list[GgufPart]) -> None:
    for number, (path, part) in enumerate(zip(paths, parts, strict=True)):
        if len(parts) == 1:
            return
        said = _count(path, part, "split.no", 0), _count(path, part, "split.count", 1)
        if said != (number, len(parts)):
            raise CheckpointError(
                f"'{path}' says that it is part {said[0] + 1} of {said[1]}, but its name says "
                f"{number + 1} of {len(parts)}; {_DOWNLOAD_AGAIN}."
            )
        for key in ("split.tensors.count", "general.architecture", "general.name"):
            first, found = parts[0].settings.get(key), part.settings.get(key)
            if found is not None and found != first:
                raise CheckpointError(
                    f"'{path}' is a part of another model than '{paths[0]}': it says {key}: "
                    f"{found!r:.60}, but {first!r:.60} was expected; {_DOWNLOAD_AGAIN}."
                )


def _all_tensors(paths: list[Path], parts: list[GgufPart]) -> dict[str, GgufTensor]:
    found: dict[str, GgufTensor] = {}
    for path, part in zip(paths, parts, strict=True):
        if twice := next((name for name in part.tensors if name in found), None):
            raise CheckpointError(
                f"Tensor '{twice}' is in '{path}' and in '{found[twice].raw.file}'; "
                f"{_DOWNLOAD_AGAIN}."
            )
        found |= part.tensors
    expected = _count(paths[0], parts[0], "split.tensors.count", len(found))
    if len(found) != expected:
        raise CheckpointError(
            f"'{paths[0]}' says that all parts hold {expected} tensors, but {len(found)} are in "
            f"them; {_DOWNLOAD_AGAIN}."
        )
    return found
