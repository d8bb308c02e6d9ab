"""The last step of writing a folder: carry the small files over, sync, and rename into place."""

import json
import logging
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from treadle.core.errors import CheckpointError, SettingsError
from treadle.core.mistaken import pointed

__all__ = [
    "PROCESSORS",
    "carried",
    "carry_files",
    "prepare_target",
    "publish",
    "remove",
    "require_apart",
    "require_carried",
    "require_elsewhere",
    "require_replaceable",
    "sync",
    "write_text",
]

PROCESSORS = "*processor_config.json"
"""Files that say how images, sounds and videos become inputs."""
# What a tokenizer, a generation or remote code needs; never weights, nor the parent's own records.
_CARRIED = (
    "added_tokens.json",
    "chat_template*",
    "generation_config.json",
    "merges*",
    PROCESSORS,
    "special_tokens_map.json",
    "tokenizer*",
    "vocab*",
    "*.model",
    "*.py",
    "*.tiktoken",
)

logger = logging.getLogger(__name__)


def prepare_target(out: Path, overwrite: bool) -> None:
    """Check that `out` may be written, after undoing a replacement that a crash interrupted.

    Raises:
        SettingsError: `out` exists and may not, or cannot sensibly, be replaced.
    """
    aside = _aside(out)
    if aside.exists() and not out.exists():
        aside.rename(out)
        logger.warning("Restored %s, which an interrupted replacement had moved aside.", out)
    is_replaceable = out.is_dir() and not out.is_symlink()
    is_ours = is_replaceable and ((out / "config.json").is_file() or not any(out.iterdir()))
    require_replaceable(out, overwrite, is_ours, "model folder (a folder with config.json)")


def require_replaceable(out: Path, overwrite: bool, is_ours: bool, what: str) -> None:
    """Check that `out` does not exist, or may be replaced.

    Args:
        out: The output.
        overwrite: Whether the user lets it be replaced.
        is_ours: Whether it is what is replaced without a loss.
        what: That, for the message: no other folder is touched.

    Raises:
        SettingsError: It exists and may not, or cannot sensibly, be replaced.
    """
    if not out.exists():
        return
    if not overwrite:
        raise SettingsError(
            f"{out} already exists; choose another folder, or pass --overwrite (overwrite=True)."
        )
    if not is_ours:
        raise SettingsError(
            f"{out} exists and is no {what}, so it is not overwritten; choose another folder, or "
            f"remove it yourself."
        )


def require_elsewhere(out: Path, source: Path, name: str) -> None:
    """Check that `out` is not the folder of a model that is read, nor inside of it.

    Raises:
        SettingsError: It is; the message calls the model `name`.
    """
    if source.resolve() in (out.resolve(), *out.resolve().parents):
        raise SettingsError(
            f"The output '{out}' is {name} own folder, or lies in it; choose another one."
        )


def require_apart(out: Path, paths: Sequence[str | Path]) -> None:
    """Check that nothing that is read lies in `out`, or is it, or holds it.

    Paths of nothing that is there are passed over.

    Raises:
        SettingsError: Something does: it would be gone, or grow, while it is read.
    """
    target = out.expanduser().resolve()
    for path in paths:
        source = Path(path).expanduser()
        if not str(path) or not source.exists():
            continue
        resolved = source.resolve()
        if target in (resolved, *resolved.parents) or resolved in target.parents:
            raise SettingsError(
                f"The output '{out}' and '{path}', which is read, are one place or lie in each "
                f"other; choose another output."
            )


def carried(parent: Path, without: str = "") -> list[Path]:
    """Return the tokenizer and other small files of a model that go along with its weights.

    Those of the pattern `without` are not among them.
    """
    patterns = (one for one in _CARRIED if one != without)
    found = [file for one in patterns for file in sorted(parent.glob(one)) if file.is_file()]
    return list(dict.fromkeys(found))


def carry_files(parent: Path, folder: Path, without: str = "") -> None:
    """Copy the tokenizer and other small files of `parent` that `folder` does not have.

    Those of the pattern `without` are left where they are.
    """
    for file in carried(parent, without):
        target = folder / file.name
        if not target.exists():
            shutil.copyfile(file, target)


def require_carried(parent: Path) -> None:
    """Check that none of the small files that `carry_files` copies is a pointer to a file.

    Raises:
        CheckpointError: One is: the output would load nowhere.
    """
    for pattern in _CARRIED:
        for file in sorted(parent.glob(pattern)):
            if what := pointed(file):
                raise CheckpointError(f"'{file}', which goes along, is {what}.")


def write_text(file: Path, content: str | Mapping[str, Any]) -> None:
    """Write a text, or a mapping as JSON."""
    text = content if isinstance(content, str) else json.dumps(content, indent=2) + "\n"
    file.write_text(text, encoding="utf-8")


def publish(folder: Path, out: Path) -> None:
    """Rename `folder` to `out`; an old `out` stays if that fails and is deleted if it succeeds."""
    for file in folder.rglob("*"):
        sync(file)
    sync(folder)
    aside = _aside(out)
    if out.exists():
        remove(aside)
        out.rename(aside)
    try:
        folder.rename(out)
    except BaseException:
        if aside.exists():
            aside.rename(out)
        raise
    sync(out.parent)
    remove(aside)


def remove(path: Path) -> None:
    """Delete a file or a folder with all that is in it, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Make a file's bytes, or a folder's names, durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _aside(out: Path) -> Path:
    return out.with_name(f".{out.name}.old")
