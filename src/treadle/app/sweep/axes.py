"""An axis of a sweep: which settings it varies, and how its values are called."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any, NamedTuple

from treadle.core.errors import SettingsError
from treadle.core.registry import near
from treadle.core.verb import Verb
from treadle.verbs import VERBS

__all__ = [
    "Axis",
    "Target",
    "Value",
    "label_of",
    "make_axis",
    "require_numbers",
    "short",
    "spoken",
    "targets",
]

Value = float | str
"""A value's label: numbers stay numbers, so that they can be an axis of a plot."""
_SEED = "seed"
_VAGUE = ("yes", "no", "none", "nan", "inf", "true", "false", "")


class Target(NamedTuple):
    """What an axis varies."""

    step: int
    """Place of the step; -1 for an artefact."""
    setting: str
    """Empty where each value is a mapping of the step's settings, or the name of a method."""

    def settings(self, axis: str, value: Any) -> dict[str, Any]:  # Any: YAML values
        """Return the settings that a value stands for."""
        if self.setting:
            return {self.setting: value}
        chosen = dict(value) if isinstance(value, Mapping) else {"method": value}
        if not chosen or "out" in chosen:
            raise SettingsError(
                f"The axis '{axis}' has the value {value!r}, but a method's name or a mapping of "
                f"the step's settings was expected; 'out' is none of them."
            )
        return chosen


class Axis(NamedTuple):
    """One key of `over`, with its values in their order."""

    key: str
    values: list[Any]  # Any: YAML values
    labels: list[Value]
    targets: list[Target]

    def label(self, value: Any) -> Value:  # Any: YAML values
        """Return how a value is called: by a value's own name, it is that value."""
        for own, label in zip(self.values, self.labels, strict=True):
            if _equal(value, own) or _equal(value, label):
                return label
        return label_of(value)

    def named(self, value: Any) -> Any:  # Any: YAML values
        """Return the value that `value` is or names; None where the axis has none such."""
        found = zip(self.values, self.labels, strict=True)
        return next((o for o, label in found if _equal(value, o) or _equal(value, label)), None)

    @property
    def is_numeric(self) -> bool:
        """Whether all values are numbers."""
        return all(isinstance(label, int | float) for label in self.labels)


def targets(
    key: str, entries: Sequence[Mapping[str, Any]], artefacts: Mapping[str, str]
) -> list[Target]:  # Any: YAML values
    """Return what the axis `key` varies.

    It is an artefact's name; a step (its verb, or its `out`), whose values are settings of it; a
    step's setting behind a dot; or `seed`, of every step that takes one.

    Raises:
        SettingsError: It is none of these, or several steps have the name.
    """
    names = _names(entries)
    if key in artefacts:
        if key in names:
            raise SettingsError(f"'{key}' is an artefact and a step; rename the artefact.")
        return [Target(-1, key)]
    for name in sorted(names, key=len, reverse=True):
        if key == name or key.startswith(f"{name}."):
            if len(names[name]) > 1:
                outs = ", ".join(str(_settings(entries[place]).get("out")) for place in names[name])
                raise SettingsError(
                    f"The axis '{key}' may mean several steps; name one by its out: {outs}."
                )
            setting = key[len(name) + 1 :]
            if setting == "out":
                raise SettingsError(f"The axis '{key}' would vary 'out', which no axis may.")
            return [Target(names[name][0], setting)]
    if key == _SEED:
        return _seeded(entries)
    known = [*artefacts, *names, *(f"{name}.SETTING" for name in names), _SEED]
    raise SettingsError(f"The axis '{key}' names no step or artefact. {_near(key, names, known)}")


def _near(key: str, names: Mapping[str, Any], known: list[str]) -> str:
    word, dot, setting = key.partition(".")
    said = near(word, list(names))
    if dot and said.startswith("Did you mean"):
        close = said.split("'")[1]
        return f"Did you mean '{close}.{setting}'? Choose one of: {', '.join(known)}."
    return near(key, known)


def _names(entries: Sequence[Mapping[str, Any]]) -> dict[str, list[int]]:
    """Return the places of the steps that each name may mean."""
    names: dict[str, list[int]] = {}
    for place, entry in enumerate(entries):
        for name in dict.fromkeys([next(iter(entry)), str(_settings(entry).get("out", ""))]):
            if name:
                names.setdefault(name, []).append(place)
    return names


def _settings(entry: Mapping[str, Any]) -> Mapping[str, Any]:  # Any: YAML values
    return dict(next(iter(entry.values())))


def _seeded(entries: Sequence[Mapping[str, Any]]) -> list[Target]:
    found = []
    for place, entry in enumerate(entries):
        verb = _verb(entry)
        if verb is not None and _SEED in verb.parameters():
            found.append(Target(place, _SEED))
    if not found:
        raise SettingsError("The axis 'seed' has no effect: no step takes a seed; leave it out.")
    return found


def _verb(entry: Mapping[str, Any]) -> Verb | None:
    ((name, settings),) = entry.items()
    verb = VERBS.get(name)
    return verb.action(settings["action"]) if verb and "action" in settings else verb


def make_axis(key: str, values: Any, where: Sequence[Target]) -> Axis:  # Any: YAML values
    """Return the axis `key`.

    Raises:
        SettingsError: Its values are no list, or a value stands twice.
    """
    if not isinstance(values, list):
        raise SettingsError(
            f"The axis '{key}' is {values!r}, but a list of values was expected; write [{values}]."
        )
    if not values:
        raise SettingsError(
            f"The axis '{key}' has no values; give one at least, or leave the axis out."
        )
    for value in values:
        require_numbers(f"The axis '{key}'", value)
    try:
        texts = [json.dumps(value, sort_keys=True) for value in values]
    except TypeError as error:
        raise SettingsError(
            f"The axis '{key}' holds what is no text, number, list or mapping ({error}); put it "
            f"between quotes."
        ) from error
    for number, value in enumerate(values):
        if any(_equal(value, other) for other in values[:number]):
            raise SettingsError(f"The axis '{key}' has the value {value!r} twice; remove one.")
    return Axis(key, values, _labels(values, texts), list(where))


def require_numbers(where: str, value: Any) -> None:  # Any: YAML values
    """Refuse what is not a number though it has a number's type, however deep it lies.

    Raises:
        SettingsError: There is such a value.
    """
    if isinstance(value, float) and math.isnan(value):
        raise SettingsError(f"{where} holds nan, which is no number; give one.")
    if isinstance(value, Mapping | list):
        for one in value.values() if isinstance(value, Mapping) else value:
            require_numbers(where, one)


def _equal(one: Any, other: Any) -> bool:  # Any: YAML values
    """Whether two values are the same; numbers are by value, and neither yes nor no is one."""
    if isinstance(one, bool) is not isinstance(other, bool):
        return False
    return bool(one == other)


def _labels(values: list[Any], texts: list[str]) -> list[Value]:
    """Return short names that differ: of settings, those in which the values differ."""
    for labels in (
        [short(value) for value in values],
        [_with_settings(value, values) for value in values],
        [label_of(value) for value in values],
    ):
        if len(set(labels)) == len(labels):
            return labels
    return list(texts)


def short(value: Any) -> Value:  # Any: YAML values
    """Return a short name: of settings the method, of a path its last part."""
    if isinstance(value, Mapping):
        return _method(value) or label_of(value)
    if isinstance(value, str) and "/" in value:
        return PurePath(value).name
    return label_of(value)


def _method(value: Mapping[str, Any]) -> str:
    return str(value.get("method", ""))


def _with_settings(value: Any, values: list[Any]) -> Value:  # Any: YAML values
    if not isinstance(value, Mapping):
        return label_of(value)
    others = [one for one in values if isinstance(one, Mapping)]
    own = {
        key: one
        for key, one in value.items()
        if key != "method" and any(other.get(key) != one for other in others)
    }
    return " ".join(filter(None, [_method(value), _said(own)]))


def _said(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {label_of(value)}" for key, value in settings.items())


def label_of(value: Any) -> Value:  # Any: YAML values
    """Return how a value is called where it stands alone."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str):
        return " ".join(value.split())
    if isinstance(value, int | float):
        return value
    if isinstance(value, Mapping):
        rest = {key: one for key, one in value.items() if key != "method"}
        return " ".join(filter(None, [_method(value), _said(rest)]))
    if isinstance(value, list):
        return ", ".join(str(label_of(one)) for one in value)
    return "none"


def spoken(place: Mapping[str, Value]) -> list[str]:
    """Return values by axis in words: what says nothing alone is named, as in "sparsity 0.5"."""
    values = list(place.values())
    return [
        value
        if isinstance(value, str) and not _is_vague(value) and values.count(value) == 1
        else f"{key.rpartition('.')[2]} {value}"
        for key, value in place.items()
    ]


def _is_vague(value: str) -> bool:
    return value in _VAGUE or not any(letter.isalpha() for letter in value)
