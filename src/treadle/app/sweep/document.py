"""A sweep file: a recipe's steps, the axes they are repeated over, and what they are paired with.

There are no loops, conditions or templates: a cell is the steps with one value of each axis put in.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from treadle.app.sweep.axes import (
    Axis,
    Value,
    require_numbers,
    targets,
)
from treadle.app.sweep.bound import identity, place_of
from treadle.app.sweep.points import Entry, Point, PointPlan
from treadle.core.errors import SettingsError
from treadle.core.registry import near
from treadle.core.result import digest
from treadle.recipe import Step, parse_step, read_document

__all__ = ["Document", "load_document", "require_different"]

_RECIPE = ("name", "out", "artefacts", "temporary")
_KEYS = (*_RECIPE, "prepare", "steps", "over", "also", "repeat", "scores", "baseline")


class Document(NamedTuple):
    """A checked sweep file."""

    name: str
    out: Path
    artefacts: dict[str, str]
    temporary: frozenset[str]
    prepare: list[Entry]
    prepare_steps: list[Step]
    """What is prepared, checked."""
    axes: list[Axis]
    points: list[Point]
    num_product: int
    """How many of the points are the product of the axes; the others are extra cells."""
    repeat: list[str]
    """Axes that are averaged over: seeds."""
    methods: dict[str, str]
    """Axes that set a step's method, each with the step's out: there a control may be another."""
    scores: list[str]
    baseline: str | dict[str, Value] | None

    @property
    def prepared(self) -> list[str]:
        """Names of the artefacts that the preparing steps make."""
        return [step.out for step in self.prepare_steps]

    @property
    def prepared_from(self) -> set[str]:
        """What the preparing steps may name as artefacts."""
        return {name for step in self.prepare_steps for name in step.names}

    def axis(self, key: str) -> Axis:
        """Return the axis called `key`."""
        return next(axis for axis in self.axes if axis.key == key)


def load_document(path: Path, out: Path | None = None) -> Document:
    """Read and check a sweep file: every cell, with every verb, method and setting in it.

    Raises:
        DataError: The file is missing or no YAML.
        SettingsError: Something that it names does not exist, or a value is refused.
    """
    path = Path(path)
    found = read_document(path, "sweep", _KEYS)
    _require_kinds(found)
    artefacts = {str(name): str(value) for name, value in (found.get("artefacts") or {}).items()}
    entries = [_entry(number, entry) for number, entry in enumerate(found["steps"], 1)]
    if not entries:
        raise SettingsError(f"'{path}' has no step; write what a cell shall do under 'steps'.")
    prepare = [_entry(number, entry) for number, entry in enumerate(found.get("prepare") or (), 1)]
    over, also = dict(found.get("over") or {}), list(found.get("also") or ())
    if not over and not also:
        raise SettingsError(
            f"'{path}' has no axis; write one under 'over', as in 'prune.sparsity: [0.3, 0.5]' "
            f"(`treadle run` runs steps once)."
        )
    plan = PointPlan(
        entries, artefacts, {k: targets(k, entries, artefacts) for k in _axis_keys(found)}
    )
    points, num_product = plan.points(over, also)
    if read := plan.read(points):  # numbers as the verbs read them, "1e-1" as 0.1
        over = {key: _as_read(read, key, values) for key, values in over.items()}
        also = [{key: _as_read(read, key, [v])[0] for key, v in one.items()} for one in also]
        points, num_product = plan.points(over, also)
    axes = plan.axes(over)
    document = Document(
        str(found.get("name", path.stem)),
        Path(out or found.get("out", f"runs/{path.stem}")),
        artefacts,
        frozenset(found.get("temporary") or ()),
        prepare,
        [parse_step(number, entry) for number, entry in enumerate(prepare, 1)],
        axes,
        points,
        num_product,
        _repeated(found.get("repeat"), axes),
        plan.methods(points[0]),
        _scores(found.get("scores")),
        None,
    )
    require_different(document, place_of)
    _require_names(document)
    document = document._replace(points=plan.complete(points, axes, document.prepared_from))
    return document._replace(baseline=_baseline(found.get("baseline"), document))


def _as_read(read: Mapping[tuple[str, str], Any], key: str, values: Any) -> Any:  # Any: YAML values
    return [read.get((key, repr(value)), value) for value in values]


def _scores(given: Sequence[Any] | None) -> list[str]:  # Any: YAML values
    if given is None:
        return []
    names = [str(name) for name in given]
    if not names:
        raise SettingsError("'scores' is empty; name a measurement, or leave 'scores' out.")
    for name in names:
        if names.count(name) > 1:
            raise SettingsError(f"'scores' names '{name}' twice; remove one.")
    return names


def _require_kinds(found: Mapping[str, Any]) -> None:  # Any: YAML values
    kinds: dict[str, tuple[type, str]] = {
        "artefacts": (dict, "a mapping of names to folders"),
        "over": (dict, "a mapping of axes to lists of values, as in 'prune.sparsity: [0.3, 0.5]'"),
        "prepare": (list, "a list of steps"),
        "also": (list, "a list of cells, each a mapping of axes to one value"),
        "repeat": (list, "a list of axes"),
        "scores": (list, "a list of measurements"),
        "temporary": (list, "a list of artefacts"),
    }
    for key, (kind, expected) in kinds.items():
        if found.get(key) is not None and not isinstance(found[key], kind):
            raise SettingsError(f"'{key}' is {found[key]!r}, but {expected} was expected.")
    for extra in found.get("also") or ():
        if not isinstance(extra, dict):
            raise SettingsError(
                f"'also' holds {extra!r}, but each extra cell is a mapping of axes to one value."
            )


def _axis_keys(found: Mapping[str, Any]) -> list[str]:  # Any: YAML values
    keys = [*(found.get("over") or ()), *(key for one in found.get("also") or () for key in one)]
    return list(dict.fromkeys(map(str, keys)))


def _entry(number: int, entry: Any) -> Entry:  # Any: whatever the YAML holds
    """Return a step as it is written, if it is one verb; its settings may lack an axis's."""
    if not isinstance(entry, dict) or len(entry) != 1:
        raise SettingsError(
            f"Step {number} must be one verb with its settings, as in 'prune: {{...}}'."
        )
    ((verb, settings),) = entry.items()
    require_numbers(f"Step {number} ({verb})", settings)
    try:
        return {str(verb): json.loads(json.dumps(settings or {}))}
    except TypeError as error:
        raise SettingsError(
            f"Step {number} ({verb}) holds what is no text, number, list or mapping ({error}); put "
            f"it between quotes."
        ) from error


def require_different(
    document: Document, place: Callable[[str], str], averaged: bool = False
) -> None:
    """Refuse two cells that do the same, however they are written.

    Args:
        document: The sweep.
        place: What an input counts as: its path, or its content.
        averaged: Compare only cells that are averaged: those would count as several runs.

    Raises:
        SettingsError: Two cells are the same.
    """
    seen: dict[str, Point] = {}
    prepared = document.prepared_from
    for point in document.points:
        made = {*document.prepared, *(step.out for step in point.steps)}
        steps = [identity(step, point.artefacts, made, place) for step in point.steps]
        before = {name: place(point.artefacts.get(name, name)) for name in prepared - made}
        row = {k: v for k, v in point.place.items() if k not in document.repeat}
        key = digest([steps, before, row if averaged else {}])
        if key in seen:
            raise SettingsError(
                f"Two cells are the same: '{seen[key].label}' and '{point.label}'; remove one."
            )
        seen[key] = point


def _repeated(given: Sequence[str] | None, axes: Sequence[Axis]) -> list[str]:
    keys = [axis.key for axis in axes]
    if given is None:
        return [key for key in keys if key.rpartition(".")[2] == "seed"]
    for key in given:
        if key not in keys:
            raise SettingsError(f"'repeat' names '{key}', which is no axis. {near(str(key), keys)}")
    return list(given)


def _require_names(document: Document) -> None:
    """Check that what is temporary is made, and that an artefact which is varied is used."""
    made = [step.out for step in document.points[0].steps]
    for name in document.temporary:
        if name not in made:
            known = near(str(name), made)
            raise SettingsError(f"temporary names '{name}', which no step makes. {known}")
    prepared = document.prepared_from
    for point in document.points:
        for name in set(point.place) & set(document.artefacts):
            if name not in point.names | prepared:
                raise SettingsError(
                    f"The axis '{name}' varies an artefact that no step of '{point.label}' uses; "
                    f"name it in a step, or write cells that do without it under 'also'."
                )


def _baseline(given: Any, document: Document) -> str | dict[str, Value] | None:  # Any: YAML values
    if given is None:
        return None
    if isinstance(given, str):
        if given not in document.prepared:
            raise SettingsError(
                f"The baseline '{given}' is nothing that 'prepare' makes. "
                f"{near(given, document.prepared) if document.prepared else ''} Name its 'out', or "
                f"give values of axes, as in {{prune: random}}."
            )
        return given
    if not isinstance(given, dict) or not given:
        raise SettingsError(
            f"The baseline is {given!r}, but the 'out' of a preparing step or values of axes were "
            f"expected, as in {{prune: random}}."
        )
    keys = [axis.key for axis in document.axes]
    for key in given:
        if key in document.repeat:
            raise SettingsError(
                f"The baseline names '{key}', which is averaged over: a run would be paired with "
                f"itself. Name another axis, or leave '{key}' out of 'repeat'."
            )
        if key not in keys:
            raise SettingsError(f"The baseline names '{key}', which is no axis. {near(key, keys)}")
    chosen = {key: document.axis(key).label(value) for key, value in given.items()}
    if not any(chosen.items() <= point.place.items() for point in document.points):
        raise SettingsError(
            f"No cell has the baseline's {', '.join(f'{k}: {v}' for k, v in chosen.items())}; "
            f"choose values that 'over' or 'also' has."
        )
    return chosen
