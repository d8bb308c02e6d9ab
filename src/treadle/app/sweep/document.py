"""A sweep file: a recipe's steps, the axes they are repeated over, and what they are paired with.

There are no loops, conditions or templates: a cell is the steps with one value of each axis put in.
"""

import itertools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from treadle.app.sweep.axes import Axis, Target, Value, label_of, make_axis, spoken, targets
from treadle.core.errors import SettingsError
from treadle.core.registry import near
from treadle.core.result import digest
from treadle.recipe import Step, parse_step, read_document

__all__ = ["Document", "Point", "load_document"]

_RECIPE = ("name", "out", "artefacts", "temporary")
_KEYS = (*_RECIPE, "prepare", "steps", "over", "also", "repeat", "scores", "baseline")
_MOST_CELLS = 2000
"""Cells of one sweep: more are a slip of the pen, or too many to read in one table."""
Entry = dict[str, Any]  # Any: YAML values


class Point(NamedTuple):
    """One cell: the steps with one value of each axis."""

    place: dict[str, Value]
    """Axis -> the value's label; an extra cell may leave axes out."""
    values: dict[str, Any]  # Any: YAML values
    """Axis -> the value as it is written."""
    entries: list[Entry]
    steps: list[Step]
    """The entries, checked."""
    artefacts: dict[str, str]

    @property
    def label(self) -> str:
        """The cell in a few words."""
        return _label(self.place)

    @property
    def names(self) -> set[str]:
        """What the steps may name as artefacts."""
        return {name for step in self.steps for name in step.names}


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
    scores: list[str]
    baseline: str | dict[str, Value] | None

    @property
    def prepared(self) -> list[str]:
        """Names of the artefacts that the preparing steps make."""
        return [step.out for step in self.prepare_steps]

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
    places = {key: targets(key, entries, artefacts) for key in _axis_keys(found)}
    axes = [
        make_axis(key, values, places[key]) for key, values in (found.get("over") or {}).items()
    ]
    points = list(_product(axes, entries, artefacts))
    num_product = len(points)
    points += [_extra(extra, axes, places, entries, artefacts) for extra in found.get("also") or ()]
    _require_different(points)
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
        [str(name) for name in found.get("scores") or ()],
        None,
    )
    _require_names(document)
    return document._replace(baseline=_baseline(found.get("baseline"), document))


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
    try:
        return {str(verb): json.loads(json.dumps(settings or {}))}
    except TypeError as error:
        raise SettingsError(
            f"Step {number} ({verb}) holds what is no text, number, list or mapping ({error}); put "
            f"it between quotes."
        ) from error


def _settings(entry: Entry) -> dict[str, Any]:  # Any: YAML values
    return next(iter(entry.values()))


def _product(
    axes: Sequence[Axis], entries: Sequence[Entry], artefacts: Mapping[str, str]
) -> Iterator[Point]:
    num_cells = math.prod(len(axis.values) for axis in axes)
    if num_cells > _MOST_CELLS:
        sizes = " x ".join(f"{len(axis.values)} ({axis.key})" for axis in axes)
        raise SettingsError(
            f"The axes make {sizes} = {num_cells} cells, but a sweep has {_MOST_CELLS} at most; "
            f"take fewer values, or write several sweeps."
        )
    for chosen in itertools.product(*(range(len(axis.values)) for axis in axes)):
        given = [(axis, axis.values[n]) for axis, n in zip(axes, chosen, strict=True)]
        place = {axis.key: axis.labels[n] for axis, n in zip(axes, chosen, strict=True)}
        yield _point(place, [(a.key, a.targets, value) for a, value in given], entries, artefacts)


def _extra(
    extra: Mapping[str, Any],  # Any: YAML values
    axes: Sequence[Axis],
    places: Mapping[str, Sequence[Target]],
    entries: Sequence[Entry],
    artefacts: Mapping[str, str],
) -> Point:
    known = {axis.key: axis for axis in axes}
    place = {
        key: known[key].label(value) if key in known else label_of(value)
        for key, value in extra.items()
    }
    given = [(key, places[key], value) for key, value in extra.items()]
    return _point(place, given, entries, artefacts)


def _point(
    place: dict[str, Value],
    given: Sequence[tuple[str, Sequence[Target], Any]],  # Any: YAML values
    entries: Sequence[Entry],
    artefacts: Mapping[str, str],
) -> Point:
    own = [{verb: dict(settings)} for entry in entries for verb, settings in entry.items()]
    named = dict(artefacts)
    by: dict[tuple[int, str], str] = {}
    for key, where, value in given:
        for target in where:
            for setting, one in target.settings(key, value).items():
                if (other := by.setdefault((target.step, setting), key)) != key:
                    raise SettingsError(
                        f"The axes '{other}' and '{key}' both set '{setting}'; leave it out of one."
                    )
                if target.step < 0:
                    named[setting] = str(one)
                else:
                    _settings(own[target.step])[setting] = one
    try:
        steps = [parse_step(number, entry) for number, entry in enumerate(own, 1)]
    except SettingsError as error:
        raise SettingsError(f"Cell '{_label(place)}': {error}") from error
    return Point(place, {key: value for key, _, value in given}, own, steps, named)


def _label(place: Mapping[str, Value]) -> str:
    return ", ".join(spoken(place)) or "the only cell"


def _require_different(points: Sequence[Point]) -> None:
    seen: dict[str, Point] = {}
    for point in points:
        key = digest([point.entries, point.artefacts])
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
    prepared = {name for step in document.prepare_steps for name in step.names}
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
        if key not in keys:
            raise SettingsError(f"The baseline names '{key}', which is no axis. {near(key, keys)}")
    chosen = {key: document.axis(key).label(value) for key, value in given.items()}
    if not any(chosen.items() <= point.place.items() for point in document.points):
        raise SettingsError(
            f"No cell has the baseline's {', '.join(f'{k}: {v}' for k, v in chosen.items())}; "
            f"choose values that 'over' or 'also' has."
        )
    return chosen
