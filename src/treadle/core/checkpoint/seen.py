"""Hashes of files that were read before, for who asks again and again whether they are the same.

A file counts as the one that was read while its device, number (inode), size, date and *date of
change* are the same. The last one is the system's own: a copy over the file, a write through a map
and a date that was set back all move it, so that what passes is the file that was hashed, unless
somebody sets the system's clock back. A hash of a file that changed less than two seconds ago is
not kept, as one more change could bear the same date.
"""

import os
import time
from pathlib import Path
from typing import Any

from treadle.core.cache import note, noted
from treadle.core.checkpoint.hashing import file_hash

__all__ = ["WEIGHTS", "seen_hash"]

WEIGHTS = tuple(
    [".safetensors", ".gguf", ".bin", ".pt", ".pth", ".h5", ".msgpack", ".onnx", ".npz", ".pkl"]
)
"""How files end that are large and say nothing of a tokenizer."""

_KIND, _MOST = "file-hashes", 200
_YOUNG_NS = 2_000_000_000


def seen_hash(path: Path, leaves: tuple[str, ...] = ()) -> list[list[str]]:
    """Return name and sha256 of a file, or of each file in a folder; its folders are not entered.

    A file is read where it was not before, or changed since.

    Args:
        path: The file or folder.
        leaves: Ends of names that are left out.
    """
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    files = [file for file in files if file.is_file() and not file.name.endswith(leaves)]
    key = str(path.absolute())
    known = noted(_KIND, key)
    known = known if isinstance(known, dict) else {}
    found = {file.name: _hashed(file, known.get(file.name)) for file in files}
    old = known | {name: entry for name, (entry, is_old) in found.items() if is_old}
    if old != known:
        note(_KIND, key, old, _MOST)
    return [[name, entry[-1]] for name, (entry, _) in found.items()]


def _hashed(file: Path, known: Any) -> tuple[list[Any], bool]:  # Any: JSON values
    """Return a file's state and hash, and whether both may be kept."""
    before = _state(file)
    if isinstance(known, list) and known[:-1] == before:
        return known, True
    began = time.time_ns()
    entry = [*before, file_hash(file)]
    return entry, _state(file) == before and before[-1] + _YOUNG_NS < began


def _state(file: Path) -> list[int]:
    stat: os.stat_result = file.stat()
    return [stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]
