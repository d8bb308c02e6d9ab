"""The folder in which treadle keeps what it can make again."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from treadle.core.errors import SettingsError

__all__ = ["cache_folder", "locked"]


def cache_folder() -> Path:
    """Return ``$TREADLE_CACHE``, or ``treadle`` in ``$XDG_CACHE_HOME`` or in ``~/.cache``.

    It may not exist yet. As the XDG base directory specification asks, a relative
    ``$XDG_CACHE_HOME`` is ignored.

    Raises:
        SettingsError: None of them is set, and the user has no home folder.
    """
    own = os.environ.get("TREADLE_CACHE")
    if own:
        return Path(own)
    shared = Path(os.environ.get("XDG_CACHE_HOME") or "")
    if shared.is_absolute():
        return shared / "treadle"
    try:
        return Path.home() / ".cache" / "treadle"
    except RuntimeError as error:
        raise SettingsError(
            f"Found no $HOME in the environment and no home folder of user {os.getuid()}, expected "
            f"a place for what can be made again; let TREADLE_CACHE name a folder."
        ) from error


@contextmanager
def locked(file: Path) -> Iterator[None]:
    """Hold the lock named by `file` while the block runs; other processes wait."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield
