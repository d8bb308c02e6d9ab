"""Which results there are, and which model each of them made."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from treadle.core.checkpoint import Manifest, read_manifest
from treadle.core.errors import DataError
from treadle.core.result import RESULT_FILE, Input, Result, Role, read_result

__all__ = ["Run", "find", "history_of", "input_of", "makers_of", "models_of", "parents_of"]


class Run(NamedTuple):
    """A result and the model that it made."""

    result: Result
    made_hash: str = ""
    """Content hash of the model in the output folder; empty where the run made none."""
    is_portable: bool = True
    """Whether the output loads without side files that only treadle reads."""

    @property
    def is_resumed(self) -> bool:
        """Whether the run went on after an interruption, so that its costs miss the first part."""
        return self.result.is_resumed

    @property
    def is_control(self) -> bool:
        """Whether the run's method is a control, which others must beat."""
        return self.result.is_control


def find(paths: list[Path]) -> list[Run]:
    """Read every result file among `paths`, in folders at any depth but not in hidden ones.

    The order follows the results (when they started, what they did), not the order of `paths`.

    Raises:
        DataError: There is none, or one is not a result.
        CheckpointError: A folder's treadle.json is damaged.

    """
    files = sorted({file.resolve() for path in paths for file in _files(Path(path))})
    if not files:
        given = ", ".join(f"'{path}'" for path in paths) or "no path"
        raise DataError(
            f"Found no {RESULT_FILE} in {given}; give the output folders of verbs such as "
            f"evaluate, or a folder that holds them."
        )
    runs = [_read(file) for file in files]
    return sorted(runs, key=lambda run: _order(run.result))


def input_of(result: Result, role: Role) -> tuple[str, str]:
    """Return path and content hash of the first input of a role, or two empty strings."""
    for entry in result.inputs:
        if entry.role == role:
            return entry.path, entry.content_hash
    return "", ""


def models_of(result: Result) -> list[Input]:
    """Return the models whose weights are in what the run made."""
    return [entry for entry in result.inputs if entry.role in ("model", "base")]


def parents_of(result: Result) -> list[Input]:
    """Return the models that were made into one, where they are several; a base is none of them."""
    found = [entry for entry in result.inputs if entry.role == "model"]
    return found if len(found) > 1 else []


def makers_of(runs: list[Run], path: str, content_hash: str) -> tuple[Run, ...]:
    """Return the runs that made the model of this hash, the first one first; none if it was given.

    What several models were made into has the makers of all of them. Where several runs made the
    same numbers, the one that wrote `path` is taken.
    """
    found: list[Run] = []
    _gather(runs, path, content_hash, found, [])
    return tuple(found)


def _gather(
    runs: list[Run], path: str, content_hash: str, found: list[Run], above: list[Run]
) -> None:
    maker = _maker(runs, path, content_hash)
    if maker is None or maker in found or maker in above:
        return
    for entry in models_of(maker.result):
        _gather(runs, entry.path, entry.content_hash, found, [*above, maker])
    found.append(maker)


def history_of(runs: list[Run], path: str, content_hash: str) -> str:
    """Return the methods that made a model, such as "(wanda, ria) then ties"; empty if none did."""
    return _history(runs, path, content_hash, [])


def _history(runs: list[Run], path: str, content_hash: str, above: list[Run]) -> str:
    maker = _maker(runs, path, content_hash)
    if maker is None or maker in above:
        return ""
    read = models_of(maker.result)
    told = [_history(runs, e.path, e.content_hash, [*above, maker]) for e in read]
    made = list(dict.fromkeys(filter(None, told)))
    own = maker.result.method or maker.result.action
    if not made:
        return own
    before = made[0] if len(read) == 1 else f"({', '.join(made)})"
    return f"{before} then {own}"


def _maker(runs: list[Run], path: str, content_hash: str) -> Run | None:
    if not content_hash:
        return None
    makers = [run for run in runs if run.made_hash == content_hash]
    for run in makers:
        if Path(run.result.output) == Path(path):
            return run
    changed = [
        run
        for run in makers
        if content_hash not in {entry.content_hash for entry in models_of(run.result)}
    ]
    return changed[0] if changed else None


def _files(path: Path) -> Iterator[Path]:
    if path.is_dir():
        for folder, names, files in os.walk(path):
            names[:] = [name for name in names if not name.startswith(".")]
            if RESULT_FILE in files:
                yield Path(folder) / RESULT_FILE
    elif path.is_file():
        yield path
    else:
        raise DataError(
            f"Nothing at '{path}'; give a {RESULT_FILE} or a folder that holds some at any depth."
        )


def _read(file: Path) -> Run:
    result = read_result(file)
    manifest = _manifest(file.parent, result) or _manifest(Path(result.output), result)
    if manifest is None:
        return Run(result)
    portable = not any(side_file.required for side_file in manifest.side_files)
    return Run(result, manifest.content_hash, portable)


def _manifest(folder: Path, result: Result) -> Manifest | None:
    """Return the folder's manifest if it tells of this run: other verbs may write there as well."""
    manifest = read_manifest(folder)
    is_its = manifest is not None and manifest.provenance.fingerprint == result.fingerprint
    return manifest if is_its else None


def _order(result: Result) -> tuple[str, str, str, str, str]:
    return result.started, result.command, result.method, result.fingerprint, result.output
