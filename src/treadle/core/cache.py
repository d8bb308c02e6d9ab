"""The folder in which treadle keeps what it can make again."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["cache_folder", "locked"]


def cache_folder() -> Path:
    """Return ``$TREADLE_CACHE``, or ``~/.cache/treadle``; the folder may not exist yet."""
    return Path(os.environ.get("TREADLE_CACHE") or Path.home() / ".cache" / "treadle")


@contextmanager
def locked(file: Path) -> Iterator[None]:
    """Hold the lock named by `file` while the block runs; other processes wait."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield
