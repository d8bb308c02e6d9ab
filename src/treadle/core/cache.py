"""The folder in which treadle keeps what it can make again, and notes of what it found.

A note is a file of its own: a digest, and behind it the JSON that it is of. It appears whole or not
at all, whoever writes beside; what is damaged, or cannot be read, counts as not noted.
"""

import fcntl
import hashlib
import json
import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from treadle.core.errors import SettingsError

__all__ = ["cache_folder", "locked", "note", "noted"]

_STALE_NS = 3600 * 10**9
logger = logging.getLogger(__name__)


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


def noted(kind: str, key: str) -> Any:  # Any: a JSON value
    """Return what was noted under a key, None if nothing was."""
    try:
        found = _place(kind, key).read_bytes()
        digest, _, text = found.partition(b"\n")
        return json.loads(text) if _digest(text) == digest else None
    except (OSError, ValueError, RecursionError, SettingsError):
        return None


def note(kind: str, key: str, value: Any, most: int) -> None:  # Any: a JSON value
    """Note a value under a key.

    Args:
        kind: A folder's name; keys are told apart inside of it.
        key: Any text.
        value: What JSON holds; floats stay what they are to the last bit.
        most: Notes of the kind that are kept; the oldest ones go.
    """
    text = json.dumps(value).encode()
    try:
        place = _place(kind, key)
        place.parent.mkdir(parents=True, exist_ok=True)
        fresh = place.with_suffix(f".{os.getpid()}-{threading.get_ident()}.new")
        try:
            fresh.write_bytes(_digest(text) + b"\n" + text)
            fresh.replace(place)
        except BaseException:
            fresh.unlink(missing_ok=True)
            raise
        _forget(place.parent, most)
    except (OSError, SettingsError) as error:
        logger.warning("Cannot note what was found of a model (%s); set TREADLE_CACHE.", error)


def _place(kind: str, key: str) -> Path:
    return cache_folder() / kind / f"{hashlib.sha256(key.encode()).hexdigest()}.json"


def _digest(text: bytes) -> bytes:
    return hashlib.sha256(text).hexdigest().encode()


def _forget(folder: Path, most: int) -> None:
    """Remove the oldest notes, and what was left half written; another process may do the same."""
    ages: list[tuple[int, Path]] = []
    for file in folder.iterdir():
        with suppress(OSError):
            ages.append((file.stat().st_mtime_ns, file))
    notes = sorted(one for one in ages if one[1].suffix == ".json")
    newest = max(ages, default=(0, folder))[0]
    stale = [one for one in ages if one[1].suffix == ".new" and one[0] + _STALE_NS < newest]
    for _, file in [*notes[:-most], *stale]:
        file.unlink(missing_ok=True)
