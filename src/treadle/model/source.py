"""What the runtime reads: folders of floats, quantised folders, and GGUF files, by one door."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

from treadle.core.checkpoint import CheckpointReader, content_hash, require_understood
from treadle.core.checkpoint.described import read_object, says_bundle
from treadle.core.checkpoint.hashing import file_hash
from treadle.core.checkpoint.layered import DENSE
from treadle.core.checkpoint.reader import weight_files
from treadle.core.checkpoint.routed import EXPERTS, BundleReader
from treadle.core.errors import CheckpointError
from treadle.model.gguf.file import part_paths
from treadle.model.gguf.model import open_gguf
from treadle.model.quantized import open_quantized

__all__ = ["name_later", "open_model", "source_hash"]

# What a copy of a config may say otherwise without computing anything else.
_SAYS_NOTHING = ("_name_or_path", "transformers_version")


def open_model(path: Path) -> CheckpointReader:
    """Open a model folder or a GGUF file; what is quantised comes as a `DecodedReader`.

    Raises:
        CheckpointError: The file or folder is damaged.
        UnsupportedModelError: How it is quantised is not read, or what a required side file says.
    """
    if path.is_file():
        return open_gguf(path)
    require_understood(path)
    if says_bundle(path):
        return BundleReader(path)
    reader = CheckpointReader(path)
    return open_quantized(reader) if reader.config.get("quantization_config") else reader


def source_hash(path: Path) -> str:
    """Return a hash of a model's numbers: of a GGUF file, sha256 of its bytes.

    Of a file in parts, sha256 of their hashes.
    """
    if not path.is_file():
        return content_hash(path)
    hashes = [file_hash(part) for part in _files_of(path)]
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()


def name_later(path: Path) -> Callable[[], str]:
    """Return a function that hashes a model's numbers and config, which takes seconds where large.

    It raises a CheckpointError if the files are no longer those that are there now: what was loaded
    meanwhile would get the name of another model.
    """
    seen = _states(path)

    def name() -> str:
        if _states(path) != seen:
            raise CheckpointError(
                f"The weights of '{path}' changed after they were loaded, so that nobody can say "
                f"which model this is; load it again, and write other weights to another folder."
            )
        return hashlib.sha256(f"{source_hash(path)}{_config_of(path)}".encode()).hexdigest()

    return name


def _states(path: Path) -> list[tuple[str, int, int]]:
    if says_bundle(path):
        parts = [*sorted((path / EXPERTS).iterdir()), path / DENSE]
        return [one for part in parts if part.exists() for one in _states(part)]
    files = _files_of(path) if path.is_file() else weight_files(path)
    return [(file.name, s.st_size, s.st_mtime_ns) for file in files for s in [file.stat()]]


def _files_of(path: Path) -> list[Path]:
    return [part for part in part_paths(path) if part.is_file()]


def _config_of(path: Path) -> str:
    if path.is_file():  # inside of what is hashed
        return ""
    config = read_object(path / "config.json")
    said = {name: value for name, value in config.items() if name not in _SAYS_NOTHING}
    return json.dumps(said, sort_keys=True)
