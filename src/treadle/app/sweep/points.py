"""Cells: the steps with one value of each axis put in, and what each then has on every axis."""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence, Set
from typing import Any, NamedTuple

from treadle.app.sweep.axes import Axis, Target, Value, label_of, make_axis, short, spoken
from treadle.app.sweep.bound import bound, place_of, plain
from treadle.core.errors import SettingsError
from treadle.recipe import Step, parse_step

__all__ = ["Entry", "Point", "PointPlan"]

_MOST_CELLS = 2000
"""Cells of one sweep: more are a slip of the pen, or too many to read in one table."""
_UNKNOWN = object()
"""What a cell has on an axis that its methods do not know, or know in several ways."""
_DEFAULT = "default"
"""What it has where the verb chooses."""
Entry = dict[str, Any]  # Any: YAML values


class Point(NamedTuple):
    """One cell: the steps with one value of each axis."""

    place: dict[str, Value]
    """Axis -> the value's label; without those axes that the cell's methods do not know."""
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


class PointPlan(NamedTuple):
    """The steps as they are written, and what each axis varies."""

    entries: list[Entry]
    sources: dict[str, str]
    """The artefacts."""
    targets: dict[str, list[Target]]

    def axes(self, over: Mapping[str, Any]) -> list[Axis]:  # Any: YAML values
        """Return the axes of the product."""
        return [make_axis(key, values, self.targets[key]) for key, values in over.items()]

    def points(
        self, over: Mapping[str, Any], also: Sequence[Mapping[str, Any]]
    ) -> tuple[list[Point], int]:  # Any: YAML values
        """Return all cells, and how many of them are the product."""
        axes = self.axes(over)
        product = list(_product(axes, self.entries, self.sources))
        extra = [_extra(one, axes, self.targets, self.entries, self.sources) for one in also]
        return [*product, *extra], len(product)

    def read(self, points: Sequence[Point]) -> dict[tuple[str, str], Any]:  # Any: YAML values
        """Return the values that a verb reads otherwise than they are written."""
        found: dict[tuple[str, str], Any] = {}
        for point in points:
            for key, value in point.values.items():
                target = self.targets[key][0]
                if target.step < 0 or not target.setting or (key, repr(value)) in found:
                    continue
                seen = plain(value, bound(point.steps[target.step]).get(target.setting))
                if repr(seen) != repr(value):
                    found[key, repr(value)] = seen
        return found

    def methods(self, point: Point) -> dict[str, str]:
        """Return the axes that set a step's method, with the outs of these steps."""
        chosen = {key: where[0] for key, where in self.targets.items()}
        return {
            key: point.steps[target.step].out
            for key, target in chosen.items()
            if target.step >= 0 and target.setting in ("", "method")
        }

    def complete(
        self, points: Sequence[Point], axes: Sequence[Axis], prepared: Set[str]
    ) -> list[Point]:
        """Return all points with a value of every axis: where none is given, the step's own.

        Args:
            points: The cells.
            axes: The axes of the product.
            prepared: What the preparing steps may name as artefacts.
        """
        found = []
        for point in points:
            place, values = dict[str, Value](), dict(point.values)
            for key, where in self.targets.items():
                axis = next((axis for axis in axes if axis.key == key), None)
                if key in point.place:
                    place[key] = point.place[key]
                    continue
                if where[0].step < 0 and key not in point.names | prepared:
                    continue
                if (own := _own(point, key, where, axis)) is _UNKNOWN:
                    continue
                is_value = axis is not None and axis.named(own) is not None
                place[key] = axis.label(own) if axis and is_value else short(own)
                if axis is not None and is_value and where[0].step < 0:
                    values[key] = axis.named(own)
            found.append(point._replace(place=place, values=values))
        return found


def _own(
    point: Point, key: str, where: Sequence[Target], axis: Axis | None
) -> Any:  # Any: a setting
    """Return what a cell has where an axis is not named: of its artefact, or of its steps."""
    if where[0].step < 0:
        own = point.artefacts[key]
        same = (v for v in axis.values if place_of(str(v)) == place_of(own)) if axis else ()
        return next(iter(same), own)
    found = [bound(point.steps[target.step]) for target in where]
    if where[0].setting:
        values = [one.get(where[0].setting, _UNKNOWN) for one in found]
        if any(value != values[0] for value in values):
            return _UNKNOWN
        return _DEFAULT if values[0] is None else values[0]
    for value, label in zip(axis.values, axis.labels, strict=True) if axis else ():
        chosen = where[0].settings(key, value)
        if all(
            plain(one, found[0].get(name)) == found[0].get(name) for name, one in chosen.items()
        ):
            return label
    return found[0].get("method", _UNKNOWN)


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


def _settings(entry: Entry) -> dict[str, Any]:  # Any: YAML values
    return next(iter(entry.values()))
