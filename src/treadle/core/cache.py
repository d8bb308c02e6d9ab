"""The folder in which treadle keeps what it can make again."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["cache_folder", "locked"]


def cache_folder() -> Path:
    """Return ``$TREADLE_CACHE``, or ``treadle`` in ``$XDG_CACHE_HOME`` or in ``~/.cache``.

    It may not exist yet. As the XDG base directory specification asks, a relative
    ``$XDG_CACHE_HOME`` is ignored.
    """
    own = os.environ.get("TREADLE_CACHE")
    if own:
        return Path(own)
    shared = Path(os.environ.get("XDG_CACHE_HOME") or "")
    return (shared if shared.is_absolute() else Path.home() / ".cache") / "treadle"


@contextmanager
def locked(file: Path) -> Iterator[None]:
    """Hold the lock named by `file` while the block runs; other processes wait."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield
