"""Output folders: they grow beside their place, know their run, and go on after a crash."""

import os
import shutil
import socket
from pathlib import Path

from treadle.core.checkpoint.publish import publish
from treadle.core.errors import SettingsError
from treadle.core.result import RESULT_FILE
from treadle.core.table import Source

__all__ = ["WORK", "begin", "finish", "prepare", "require_elsewhere"]

WORK = "work"
"""What is only needed while a run lasts."""
_KEY = "key.txt"


def prepare(out: Path, marker: str, overwrite: bool) -> None:
    """Refuse an output that exists, unless it holds `marker` and a result and may be replaced."""
    if not out.exists():
        return
    if not overwrite:
        raise SettingsError(
            f"{out} already exists; choose another folder, or pass --overwrite (overwrite=True)."
        )
    is_ours = (out / marker).exists() and (out / RESULT_FILE).is_file()
    if not is_ours and not (out.is_dir() and not any(out.iterdir())):
        raise SettingsError(
            f"{out} exists and is no output of treadle curate, so it is not overwritten; choose "
            f"another folder, or remove it yourself."
        )


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


def begin(out: Path, fingerprint: str, is_shared: bool = False) -> Path:
    """Return the folder that grows beside `out`, empty unless the same run began it.

    Raises:
        SettingsError: The work is shared between jobs, and what lies there is another run's.
    """
    folder = out.with_name(f".{out.name}.partial")
    key = folder / _KEY
    if key.is_file() and key.read_text() == fingerprint:
        return folder
    if is_shared and key.exists():
        raise SettingsError(
            f"'{folder}' holds a run with other settings or documents, which a share of the work "
            f"may not replace; finish that run, or remove the folder."
        )
    if not is_shared:
        shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    beside = folder / f".{_KEY}.{os.getpid()}.{socket.gethostname()}"
    beside.write_text(fingerprint)
    os.replace(beside, key)
    return folder


def finish(folder: Path, out: Path) -> None:
    """Put a whole output into its place, without what only the run needed."""
    shutil.rmtree(folder / WORK, ignore_errors=True)
    (folder / _KEY).unlink()
    publish(folder, out)
