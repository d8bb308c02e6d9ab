"""The output: the model's folder as it is, and the heads beside it."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from treadle.core.checkpoint import content_hash, model_card
from treadle.core.checkpoint.hashing import remember_hash
from treadle.core.checkpoint.manifest import MANIFEST_FILE, SideFile, read_manifest
from treadle.core.checkpoint.publish import prepare_target, publish, remove, write_text
from treadle.core.checkpoint.sidefiles import side_file
from treadle.core.errors import CheckpointError, TreadleError
from treadle.core.result import RESULT_FILE
from treadle.core.run import Recording
from treadle.model.retaining import KIND, RetainingHeads, file_name, write_heads

__all__ = ["write_folder"]

_LINKED = (".safetensors", ".bin")

_CARD = "README.md"
_ANEW = {MANIFEST_FILE, RESULT_FILE, _CARD}
"""Files that the output has of its own."""


def write_folder(
    run: Recording, folder: Path, heads: RetainingHeads, policy: str, out: Path, overwrite: bool
) -> None:
    """Publish `out`: the files of `folder` (one on the disk, where it can be), and trained heads.

    Heads of other policies that `folder` carries go along. The result is written, too.

    Raises:
        CheckpointError: The weights of the output are not those that were read.
    """
    partial = out.absolute().with_name(f".{out.name}.partial")
    remove(partial)
    try:
        partial.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(folder, partial, copy_function=_link, ignore=_ignored(folder, policy))
        write_heads(partial / file_name(policy), heads, policy)
        _require_same(run, partial)
        entries = _side_files(folder, policy)
        run.finish(partial)
        before = run.inputs[0].content_hash
        manifest = run.manifest(entries).completed(before)
        write_text(partial / MANIFEST_FILE, manifest.model_dump_json(indent=2) + "\n")
        write_text(partial / _CARD, model_card(out.name, manifest.provenance))
        prepare_target(out, overwrite)
        publish(partial, out)
        remember_hash(out, before)
    except (TreadleError, OSError):
        remove(partial)
        raise


def _ignored(folder: Path, policy: str) -> Callable[[str, list[str]], set[str]]:
    """Return what says of a folder's files which do not go along."""
    own = _ANEW | {file_name(policy)}

    def ignored(place: str, names: list[str]) -> set[str]:
        if Path(place) != folder:
            return set()
        return {name for name in names if name in own or name.startswith((".treadle", ".result"))}

    return ignored


def _link(source: str, target: str) -> None:
    """Let weights have a second name; copy small files, and where links cannot be had.

    Who edits a config means that folder's.
    """
    if Path(source).suffix not in _LINKED:
        shutil.copy2(source, target)
        return
    try:
        os.link(Path(source).resolve(), target)
    except OSError:
        shutil.copy2(source, target)


def _require_same(run: Recording, partial: Path) -> None:
    """Refuse an output whose weights changed on the way.

    Raises:
        CheckpointError: They did.
    """
    before, after = run.inputs[0].content_hash, content_hash(partial)
    if after != before:
        raise CheckpointError(
            f"The weights in '{run.inputs[0].path}' changed while heads were trained on them (hash "
            f"{before[:12]}, then {after[:12]}); train them again on weights that stay."
        )
    run.notes.append(f"The backbone is byte-identical: content hash {after} before and after.")


def _side_files(folder: Path, policy: str) -> list[SideFile]:
    """Return what lies beside the weights: what the model had, the result, and the heads."""
    manifest = read_manifest(folder)
    had = () if manifest is None else manifest.side_files
    name = file_name(policy)
    kept = [one for one in had if one.path not in (RESULT_FILE, name)]
    return [*kept, side_file("result", RESULT_FILE), side_file(KIND, name)]
