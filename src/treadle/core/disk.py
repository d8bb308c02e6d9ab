"""What the system says of a disk or a folder, in words that say what to do.

And writers that let it speak: some libraries pass over what it says, or say it in their own class.
"""

import contextlib
import errno
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from treadle.core.errors import CapacityError, DataError, SettingsError

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["FULL", "save_array", "system_errors", "told"]

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""No room: on the disk, in the user's share of it, or in what one file may have."""
_REFUSED = (
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG, errno.ENOTDIR, errno.ELOOP),
    *(errno.EISDIR, errno.EINVAL, errno.ENOENT, errno.EEXIST),
)


_SAID = re.compile(r"\(os error (\d+)\)")
"""What Rust's libraries write behind the system's words."""


@contextlib.contextmanager
def told(out: Path | None) -> Iterator[None]:
    """Turn the system's errors where `out` is written into ones that name it and the mend.

    Without an `out` they name the file that the system names.

    Raises:
        CapacityError: There is no room; what was there before stays.
        SettingsError: Something there may not be written.
        DataError: A file elsewhere may not be read.
    """
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            place = out or error.filename or "the output"
            raise CapacityError(
                f"There is no room for '{place}' ({error.strerror}): what was there before stays. "
                f"Free some space, or choose a folder on another disk, and give the command again."
            ) from error
        if error.errno not in _REFUSED or error.filename is None:
            raise
        found = Path(os.fsdecode(error.filename))
        if out is not None and _is_part(found, out):
            raise SettingsError(
                f"'{out}' cannot be written ({error.strerror}); choose another output, or mend "
                f"'{_existing(out)}'."
            ) from error
        raise DataError(
            f"'{found}' cannot be used ({error.strerror}); mend it, or give another one."
        ) from error


@contextlib.contextmanager
def system_errors() -> Iterator[None]:
    """Raise what the system said to a library of Rust, such as safetensors, as an OSError."""
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        found = _SAID.search(str(error))
        if found is None:
            raise
        raise OSError(int(found[1]), os.strerror(int(found[1]))) from error


class _Plain:
    """A stream that numpy does not take for a file: it writes files past every check."""

    def __init__(self, stream: BinaryIO) -> None:
        self.write = stream.write


def save_array(stream: BinaryIO, array: "npt.NDArray[Any]") -> None:
    """Write an array as `np.save` does, and see it where the disk is full.

    `np.save` hands files to C, which finds out when it closes them, and nobody asks.
    """
    import numpy as np

    np.lib.format.write_array(_Plain(stream), array, allow_pickle=False)


def _is_part(found: Path, out: Path) -> bool:
    """Say whether a file is the output, in it, above it, or what grows beside it."""
    path, place = Path(os.path.abspath(found)), Path(os.path.abspath(out))
    is_beside = any(
        one.parent == place.parent and one.name.startswith(f".{place.name}.")
        for one in (path, *path.parents)
    )
    return is_beside or path == place or place in path.parents or path in place.parents


def _existing(out: Path) -> Path:
    """Return the first folder above an output that is there."""
    return next((one for one in Path(out).absolute().parents if one.exists()), Path("/"))
