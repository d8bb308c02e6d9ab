"""A table from names to lazily imported methods."""

import os
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Generic, TypeVar

from pydantic import ValidationError

from treadle.core.errors import SettingsError
from treadle.core.method import Method, first_mistake

__all__ = ["Choice", "Registry", "near"]

M = TypeVar("M", bound=Method)
Choice = Mapping[str, Any]  # Any: YAML values, validated by `Registry.resolve`
"""A method by its name and settings, such as {"method": "obs", "damp_fraction": 0.1}."""


def near(word: str, choices: Mapping[str, Any] | list[str]) -> str:  # Any: only the keys are read
    """Return the end of an error message: the near choice, if there is one, and the whole list."""
    close = get_close_matches(word, list(choices), n=1, cutoff=0.5)
    hint = f"Did you mean '{close[0]}'? " if close else ""
    return f"{hint}Choose one of: {', '.join(choices)}."


class Registry(Generic[M]):
    """The methods of one axis: `name -> "module:Class"`, imported on use.

    Installed packages add methods through the entry-point group ``treadle.methods``, named
    ``axis/name``.
    """

    def __init__(
        self, axis: str, table: dict[str, str], otherwise: tuple[str, str] | None = None
    ) -> None:
        self.axis = axis
        self.table = dict(table)
        self.otherwise = otherwise
        """A method and a setting of it: a text that names no method is that setting's value."""
        self.actions: dict[str, str] = {}
        """Names that stand for no method, and what to call in Python instead."""
        for entry in entry_points(group="treadle.methods"):
            owner, _, name = entry.name.partition("/")
            if owner == axis and name:
                self.table[name] = entry.value

    def __iter__(self) -> Iterator[str]:
        """Yield the methods' names."""
        return iter(self.table)

    def __len__(self) -> int:
        return len(self.table)

    def __contains__(self, name: object) -> bool:
        return name in self.table

    def __getitem__(self, name: str) -> type[M]:
        """Import and return the class called `name`.

        Raises:
            SettingsError: No method has this name; the message suggests the near one.
        """
        if not isinstance(name, str):
            raise SettingsError(f"The {self.axis} {name!r} is no name. {near('', self.table)}")
        if name in self.actions:
            call = self.actions[name]
            raise SettingsError(
                f"'{name}' is an action and no {self.axis}; call {call}(...), which is imported by "
                f"'from treadle import {call}'."
            )
        if name not in self.table:
            is_place = os.sep in name or Path(name).exists()
            swapped = " It is a path: have two arguments changed places?" if is_place else ""
            raise SettingsError(f"Unknown {self.axis} '{name}'.{swapped} {near(name, self.table)}")
        module, _, attribute = self.table[name].partition(":")
        found: type[M] = getattr(import_module(module), attribute)
        return found

    def resolve(
        self,
        value: M | str | Choice | None,
        default: str | Choice | None = None,
    ) -> M:
        """Return the method that `value` is or names.

        `value` is an instance, a name, or a mapping with a `method` key. `default` is the method,
        with its settings, that stands where `value` is None, and where it names no method or the
        same one, whose other settings it then gives.

        Raises:
            SettingsError: The name or a field is unknown, or a value is out of bounds.
        """
        if isinstance(value, Method):
            if not isinstance(value, self[value.name]):
                raise SettingsError(f"'{value.name}' is no {self.axis}. {near('', self.table)}")
            return value
        if not isinstance(value, str | Mapping | None):
            raise SettingsError(
                f"The {self.axis} {value!r} is none: give a name, or a mapping of the key 'method' "
                f"and its settings. {near('', self.table)}"
            )
        fields, own = _mapping(self._named(value)), _mapping(default)
        if own and fields.get("method", own["method"]) == own["method"]:
            fields = {**own, **fields}
        if "method" not in fields:
            given = ", ".join(map(str, fields)) or "nothing"
            raise SettingsError(
                f"No {self.axis} is chosen, but {given} is given; choose one. "
                f"{near('', self._with_setting(next(iter(fields), '')) or self.table)}"
            )
        cls = self[fields.pop("method")]
        known = list(cls.fields())
        unknown = [key for key in fields if key not in known and key not in cls.model_fields]
        if unknown:
            others = self._with_setting(str(unknown[0]))
            hint = near(str(unknown[0]), known) if known else "" if others else "It has none."
            raise SettingsError(
                f"{self.axis} '{cls.name}' has no setting '{unknown[0]}'"
                + (f", but '{others[0]}' has: choose that one. " if others else ". ")
                + hint
            )
        try:
            return cls(**fields)
        except ValidationError as error:
            raise _refused(f"{self.axis} '{cls.name}'", cls, error) from error

    def _named(self, value: str | Choice | None) -> str | Choice | None:
        """Return a choice by a method's name."""
        if self.otherwise is None or value is None:
            return value
        method, setting = self.otherwise
        if isinstance(value, str):
            return value if value in self.table else {"method": method, setting: value}
        name = value.get("method")
        is_place = isinstance(name, str) and (any(c in name for c in "/\\:") or Path(name).exists())
        if is_place and name not in self.table:  # with settings beside it
            return {**value, "method": method, setting: name}
        return value

    def _with_setting(self, setting: str) -> list[str]:
        """Return the methods that have a setting."""
        return [name for name in self.table if setting in self[name].fields()]


def _mapping(value: str | Choice | None) -> dict[str, Any]:  # Any: YAML values
    """Return a method's settings with its name, as a mapping of its own."""
    return {"method": value} if isinstance(value, str) else dict(value or {})


def _refused(where: str, method: type[Method], error: ValidationError) -> SettingsError:
    found = first_mistake(error)
    if found.kind == "missing":
        return SettingsError(
            f"{where} needs the setting '{found.setting}', which has no default; give it: "
            f"{method.fields()[found.setting].description}"
        )
    given = f"{found.setting} = {found.value!r} is refused: " if found.setting else ""
    is_list = "tuple" in found.expected or "list" in found.expected
    mend = f"Write a list: [{found.value}]." if is_list else "Change it; --help shows the bounds."
    return SettingsError(f"{where}: {given}{found.expected}. {mend}")
