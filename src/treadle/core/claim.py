"""One run writes an output at a time: a lock beside it, which goes with the process."""

import contextlib
import errno
import fcntl
import logging
import os
import platform
import time
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path

from treadle.core.disk import FULL, told
from treadle.core.errors import SettingsError

__all__ = ["claimed"]

_PATIENCE_SECONDS = 0.5
"""A run that was killed just as it started a process leaves its lock to that one for a moment."""
_UNLOCKABLE = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)

_logger = logging.getLogger(__name__)
_held: ContextVar[frozenset[Path]] = ContextVar("_held", default=frozenset())


@contextlib.contextmanager
def claimed(
    out: Path, *, is_whole: bool = False, is_shared: bool = False, waits: bool = False
) -> Iterator[None]:
    """Hold an output, so that no other run writes, replaces or resumes it meanwhile.

    Folders above the output are made; where the block fails, those that stayed empty go again.

    Args:
        out: The folder to be written; it need not exist.
        is_whole: Whether this is a whole run: what it opens on the same output is a part of it.
        is_shared: Let other runs hold it that share the work, too.
        waits: Wait for another run to end, instead of refusing.

    Raises:
        SettingsError: Another run holds it, or nothing can be written there.
        CapacityError: The disk is full.
    """
    place = Path(os.path.abspath(out))
    if not is_whole and place in _held.get():
        yield
        return
    made = _make_parents(place, out)
    file = _lock_file(place)
    try:
        descriptor = _locked(file, out, is_shared, waits)
        if is_whole:
            _held.set(_held.get() | {place})
        try:
            yield
        finally:
            _held.set(_held.get() - {place})
            _release(file, descriptor, is_shared)
    except BaseException:
        for folder in made:
            with contextlib.suppress(OSError):
                folder.rmdir()
        raise


def _make_parents(place: Path, out: Path) -> list[Path]:
    """Make the folders above an output, and return those that were not there, the inner first."""
    missing = []
    for folder in place.parents:
        if folder.exists():
            break
        missing.append(folder)
    with told(out):
        place.parent.mkdir(parents=True, exist_ok=True)
    return missing


def _lock_file(place: Path) -> Path:
    """Return what is locked: beside the output, or in one that lies where nothing can be written.

    Only verbs that add to a folder can use the latter, such as one that a container was given.
    """
    if place.is_dir() and not os.access(place.parent, os.W_OK):
        return place / ".lock"
    return place.with_name(f".{place.name}.lock")


def _locked(file: Path, out: Path, is_shared: bool, waits: bool) -> int | None:
    """Lock a file and return its descriptor; None where the file system knows no locks."""
    mode = fcntl.LOCK_SH if is_shared else fcntl.LOCK_EX
    limit = time.monotonic() + _PATIENCE_SECONDS
    while True:
        with told(out):
            descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(descriptor, mode if waits else mode | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = _holder(descriptor)
            os.close(descriptor)
            if time.monotonic() > limit:
                raise SettingsError(
                    f"'{out}' is being written by {holder}; wait for it, or choose another output."
                ) from error
            time.sleep(_PATIENCE_SECONDS / 20)
            continue
        except OSError as error:
            os.close(descriptor)
            if error.errno not in _UNLOCKABLE:
                raise
            _logger.warning("%s cannot be locked: let no other run write it meanwhile.", out)
            return None
        if _is_at(descriptor, file):
            _sign(descriptor, out)
            return descriptor
        os.close(descriptor)  # the run before let it go between the two calls


def _holder(descriptor: int) -> str:
    said = os.pread(descriptor, 200, 0).decode(errors="replace").strip()
    return said or "another run"


def _sign(descriptor: int, out: Path) -> None:
    """Say who holds the lock, for the message of the next one."""
    os.ftruncate(descriptor, 0)
    try:
        os.pwrite(descriptor, f"process {os.getpid()} on {platform.node()}".encode(), 0)
    except OSError as error:
        if error.errno not in FULL:
            raise


def _is_at(descriptor: int, file: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), file.stat())
    except FileNotFoundError:
        return False


def _release(file: Path, descriptor: int | None, is_shared: bool) -> None:
    if descriptor is None:
        return
    try:
        if is_shared:  # the last one takes it away
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if _is_at(descriptor, file):
            file.unlink()
    except OSError:
        pass  # others hold it, or the folder went
    finally:
        os.close(descriptor)
