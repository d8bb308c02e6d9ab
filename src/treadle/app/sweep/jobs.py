"""Jobs: what one process does, a cell's steps or those that prepare some cells, and its state."""

import json
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from treadle.app.sweep.contents import Contents
from treadle.app.sweep.document import Document, require_different
from treadle.app.sweep.points import Entry, Point
from treadle.core.result import RESULT_FILE, digest
from treadle.recipe import Recipe, RecipePlan, check_names, parse_step

__all__ = [
    "Cell",
    "CellJob",
    "Jobs",
    "forget_error",
    "make_jobs",
    "read_job",
    "take_over",
    "write_job",
]

_ERROR_FILE = "failed.json"
_LONGEST_NAME = 80
_TAKEN = (RESULT_FILE, "treadle.json")
"""What is taken over of a step that another machine ran: its account, never its weights."""


class CellJob(NamedTuple):
    """Steps that run in one process, one after the other, in a folder of their own."""

    label: str
    recipe: Recipe
    entries: list[Entry]

    @property
    def folder(self) -> Path:
        """Where its artefacts lie."""
        return self.recipe.out

    @property
    def is_done(self) -> bool:
        """Whether its results are there, made by these settings from these inputs."""
        return not RecipePlan(self.recipe, False).needed

    @property
    def key(self) -> str:
        """The digest of its settings and inputs."""
        return digest(RecipePlan(self.recipe, True).keys)

    @property
    def log(self) -> Path:
        """What its process wrote."""
        return self.folder / "log.txt"

    @property
    def error(self) -> str:
        """Why it failed; empty if it did not, or with other settings."""
        try:
            found = json.loads((self.folder / _ERROR_FILE).read_text())
        except (OSError, ValueError):
            return ""
        return str(found["error"]) if found.get("key") == self.key else ""

    def fail(self, error: str) -> None:
        """Note why it failed."""
        _write(self.folder / _ERROR_FILE, {"key": self.key, "error": error})


class Cell(NamedTuple):
    """A point of the sweep with the jobs that make it."""

    number: int
    point: Point
    job: CellJob
    prepared: CellJob | None


class Jobs(NamedTuple):
    """Everything that a sweep consists of."""

    prepared: list[CellJob]
    cells: list[Cell]


def make_jobs(document: Document, contents: Contents) -> Jobs:
    """Return the jobs of a sweep; reads the inputs, to know what has been made of them."""
    require_different(document, contents.digest, averaged=True)
    prepared: dict[str, CellJob] = {}
    cells = []
    for number, point in enumerate(document.points, 1):
        before = _prepared(document, point, contents)
        if before is not None:
            before = prepared.setdefault(before.recipe.name, before)
        cells.append(Cell(number, point, _cell(document, point, before, contents), before))
    return Jobs(list(prepared.values()), cells)


def _prepared(document: Document, point: Point, contents: Contents) -> CellJob | None:
    """Return the job that prepares a point: one for each value of the artefacts that it uses."""
    if not document.prepare:
        return None
    used = {name for step in document.prepare_steps for name in step.names}
    place = {key: value for key, value in point.values.items() if key in used}
    recipe = Recipe(
        _name(place),
        document.out / "prepared" / _name(place),
        point.artefacts,
        frozenset(),
        document.prepare_steps,
        _contents(used, point.artefacts, contents),
    )
    check_names(recipe)
    shown = ", ".join(str(point.place[key]) for key in place)
    return CellJob(f"prepare{': ' if shown else ''}{shown}", recipe, document.prepare)


def _cell(document: Document, point: Point, before: CellJob | None, contents: Contents) -> CellJob:
    known = _contents(point.names, point.artefacts, contents)
    artefacts = dict(point.artefacts)
    if before is not None:
        artefacts |= {step.out: str(before.folder / step.out) for step in before.recipe.steps}
        known |= RecipePlan(before.recipe, True).keys  # what was prepared counts, not its folder
    recipe = Recipe(
        _name(point.values),
        document.out / "cells" / _name(point.values),
        artefacts,
        document.temporary,
        point.steps,
        known,
    )
    check_names(recipe)
    return CellJob(point.label, recipe, point.entries)


def _contents(used: set[str], artefacts: Mapping[str, str], contents: Contents) -> dict[str, str]:
    places = {name: artefacts.get(name, name) for name in used}
    found = {name: contents.digest(place) for name, place in places.items()}
    return {name: text for name, text in found.items() if name in artefacts or text != name}


def _name(values: Mapping[str, Any]) -> str:  # Any: YAML values
    """Return a folder's name that follows from the cell's own values, whatever others there are."""
    words = [re.sub(r"[^A-Za-z0-9.]+", "_", word) for word in _words(list(values.values()))]
    shown = "-".join(word.strip("_.") for word in words)[:_LONGEST_NAME]
    return "-".join(filter(None, [shown, digest(dict(values))[:8]]))


def _words(values: Sequence[Any]) -> list[str]:  # Any: YAML values
    found: list[str] = []
    for value in values:
        if isinstance(value, Mapping):
            found += _words(list(value.values()))
        elif isinstance(value, list):
            found += _words(value)
        else:
            found.append(Path(str(value)).name)
    return found


def write_job(job: CellJob, cores: Sequence[int], fresh: bool) -> Path:
    """Write what the job's process has to know, and return the file."""
    file = job.folder / ".job.json"
    recipe = job.recipe
    content = {
        "label": job.label,
        "name": recipe.name,
        "out": str(recipe.out),
        "artefacts": recipe.artefacts,
        "temporary": sorted(recipe.temporary),
        "contents": dict(recipe.contents),
        "entries": job.entries,
        "cores": list(cores),
        "fresh": fresh,
    }
    _write(file, content)
    return file


def read_job(file: Path) -> tuple[CellJob, list[int], bool]:
    """Return a job, the cores that it may use, and whether it begins anew."""
    found = json.loads(file.read_text())
    steps = [parse_step(number, entry) for number, entry in enumerate(found["entries"], 1)]
    recipe = Recipe(
        found["name"],
        Path(found["out"]),
        found["artefacts"],
        frozenset(found["temporary"]),
        steps,
        found["contents"],
    )
    return CellJob(found["label"], recipe, found["entries"]), found["cores"], found["fresh"]


def forget_error(job: CellJob) -> None:
    """Remove the note of an earlier failure."""
    (job.folder / _ERROR_FILE).unlink(missing_ok=True)


def take_over(job: CellJob, root: Path, others: Sequence[Path]) -> bool:
    """Copy a job's results from another sweep's folder, or why it failed; return whether one told.

    Args:
        job: Whose results are missing here.
        root: The sweep's own folder.
        others: Folders of the same sweep.
    """
    for other in others:
        there = other / job.folder.relative_to(root)
        if not CellJob(job.label, job.recipe._replace(out=there), job.entries).is_done:
            continue
        mine, theirs = (
            RecipePlan(job.recipe, False),
            RecipePlan(job.recipe._replace(out=there), False),
        )
        for step in job.recipe.steps:
            copies = [(theirs.folder(step.out) / n, mine.folder(step.out) / n) for n in _TAKEN]
            copies.append((theirs.note(step.out), mine.note(step.out)))  # last: it says "ended"
            for source, target in copies:
                if source.is_file():
                    _copy(source, target)
        forget_error(job)
        return True
    return any(_take_error(job, job.recipe.out.relative_to(root), other) for other in others)


def _take_error(job: CellJob, place: Path, other: Path) -> bool:
    there = CellJob(job.label, job.recipe._replace(out=other / place), job.entries)
    if error := there.error:
        job.fail(error)
    return bool(error)


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    beside = target.with_name(f".{target.name}.{os.getpid()}")
    shutil.copyfile(source, beside)
    os.replace(beside, target)


def _write(file: Path, content: Mapping[str, Any]) -> None:  # Any: JSON values
    file.parent.mkdir(parents=True, exist_ok=True)
    beside = file.with_name(f".{file.name}.{os.getpid()}")
    beside.write_text(json.dumps(content, indent=1) + "\n")
    os.replace(beside, file)
