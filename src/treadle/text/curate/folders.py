"""Output folders: they grow beside their place, know their run, and go on after a crash."""

import os
import shutil
import socket
from pathlib import Path

from treadle.core.checkpoint.publish import publish, require_replaceable
from treadle.core.errors import DataError, SettingsError, TreadleError
from treadle.core.result import RESULT_FILE
from treadle.core.table import Source

__all__ = ["WORK", "Growing", "finish", "prepare", "require_elsewhere"]

WORK = "work"
"""What is only needed while a run lasts."""
_KEY = "key.txt"


def prepare(out: Path, marker: str, overwrite: bool) -> None:
    """Refuse an output that exists, unless it holds `marker` and a result and may be replaced."""
    is_ours = (out / marker).exists() and (out / RESULT_FILE).is_file()
    is_empty = out.is_dir() and not any(out.iterdir())
    require_replaceable(out, overwrite, is_ours or is_empty, "output of treadle curate")


def require_elsewhere(source: Source, out: Path) -> None:
    """Refuse an output inside the source, and a source inside the output, also behind links."""
    target = out.resolve()
    folders = {root.resolve() for root in source.roots if root.is_dir()}
    files = {file.parent for unit in source.units for file in unit.files}
    for root in folders | {folder.resolve() for folder in files}:
        is_within = root in folders and root in target.parents
        if target == root or is_within or target in root.parents:
            raise SettingsError(
                f"The output '{out}' lies in the source '{root}', or the source in it; choose "
                f"another folder."
            )


class Growing:
    """An output while it grows: a context that shows no hidden name, and cleans up.

    What an error leaves stays where the same command goes on with it: measured units, unless the
    error is of a setting or of the data, whose mend makes another run of it.

    Args:
        out: Where the output will be.
        is_resumable: Whether the same command goes on with what an interrupted one left.
    """

    def __init__(self, out: Path, is_resumable: bool = True) -> None:
        self._out, self._is_resumable = out, is_resumable
        self._folder = out.with_name(f".{out.name}.partial")
        self._is_own = False

    def __enter__(self) -> "Growing":
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if not isinstance(error, Exception):
            return
        if self._is_own and not self._is_wanted(error):
            shutil.rmtree(self._folder, ignore_errors=True)
        if isinstance(error, TreadleError) and str(self._folder) in str(error):
            shown = str(error).replace(str(self._folder), str(self._out))
            raise type(error)(shown) from error

    def _is_wanted(self, error: Exception) -> bool:
        """Whether the same command could go on with what there is."""
        cause = error.__cause__
        is_passing = isinstance(cause, OSError) and cause.errno is not None
        is_final = isinstance(error, DataError | SettingsError) and not is_passing
        has_work = any((self._folder / WORK).glob("[0-9]*"))
        return self._is_resumable and has_work and not is_final

    def begin(self, fingerprint: str, is_shared: bool = False) -> Path:
        """Return the folder that grows beside the output, empty unless the same run began it.

        Raises:
            SettingsError: The work is shared between jobs, and what lies there is another run's.
        """
        key = self._folder / _KEY
        self._is_own = not is_shared
        if key.is_file() and key.read_text() == fingerprint:
            return self._folder
        if is_shared and key.exists():
            raise SettingsError(
                f"The unfinished '{self._out}' holds a run with other settings or documents, which "
                f"a share of the work may not replace; finish that run, choose another output, or "
                f"begin anew by one run without --shard."
            )
        if not is_shared:
            shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir(parents=True, exist_ok=True)
        beside = self._folder / f".{_KEY}.{os.getpid()}.{socket.gethostname()}"
        beside.write_text(fingerprint)
        os.replace(beside, key)
        return self._folder


def finish(folder: Path, out: Path) -> None:
    """Put a whole output into its place, without what only the run needed."""
    shutil.rmtree(folder / WORK, ignore_errors=True)
    (folder / _KEY).unlink()
    publish(folder, out)
