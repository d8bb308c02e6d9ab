"""What a step's settings are once its verb has read them: typed, with every default in place."""

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from treadle.core.registry import Registry
from treadle.core.verb import annotated
from treadle.recipe import Step

__all__ = ["amounts", "bound", "identity", "place_of", "plain"]

_UNCOUNTED = ("out", "overwrite")
Settings = dict[str, Any]  # Any: values of any setting


def bound(step: Step) -> Settings:
    """Return all settings of a step by the names that users write; of a method's axis with dots."""
    verb, found = step.verb, Settings()
    given = verb.bind(step.settings)
    for key, parameter in verb.parameters().items():
        if key in _UNCOUNTED:
            continue
        default = None if parameter.is_required else parameter.default
        value = step.settings.get(key, default)
        if parameter.axis is not None and not parameter.owner:
            found |= _axis(parameter.axis, key, given.get(key, default), default)
        else:
            found[key] = value
    if (table := verb.methods()) is not None:
        found |= table.resolve(step.settings["method"]).settings()
    return found


def _axis(axis: Registry[Any], key: str, value: Any, default: Any) -> Settings:  # Any: YAML values
    """Return an axis's method and its settings; where the verb chooses it, what is given alone."""
    default = default if isinstance(default, str) else None
    if value is None:
        return {key: None}
    if default is None and isinstance(value, Mapping) and "method" not in value:
        return {
            key: None,
            **{f"{key}.{name}": _typed(axis, name, one) for name, one in value.items()},
        }
    found = axis.resolve(value, default).settings()
    return {key: found.pop("method"), **{f"{key}.{name}": one for name, one in found.items()}}


def _typed(axis: Registry[Any], name: str, value: Any) -> Any:  # Any: YAML values
    """Return a setting in the type that it has in the first method that has it."""
    for method in axis.table:
        if (field := axis[method].fields().get(name)) is not None:
            try:
                return TypeAdapter(annotated(field)).validate_python(value)
            except ValidationError:
                return value
    return value


def plain(value: Any, read: Any) -> Any:  # Any: YAML values
    """Return a value as its verb read it, where that is a number or a yes or no."""
    if not isinstance(value, str | int | float):
        return value
    if isinstance(read, bool):
        return read
    if not isinstance(read, int | float):
        return value
    if isinstance(value, str) and not _is_number(value):
        return value  # a size with its unit
    return value if not isinstance(value, bool | str) and value == read else read


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def place_of(source: str) -> str:
    """Return a source as one text, however its path is written."""
    path = Path(source)
    return str(path.resolve()) if source and path.exists() else source


def identity(
    step: Step, artefacts: Mapping[str, str], made: Collection[str], place: Callable[[str], str]
) -> list[Any]:  # Any: JSON values
    """Return what makes a step the same as another: its verb, and its settings as they are read."""

    def named(value: Any) -> Any:  # Any: YAML values
        if isinstance(value, list):
            return [named(one) for one in value]
        if not isinstance(value, str | Path) or str(value) in made:
            return value
        return place(artefacts.get(str(value), str(value)))

    settings = {k: named(v) if step.may_name(k) else v for k, v in bound(step).items()}
    return [step.command, settings]


def amounts(step: Step) -> Settings:
    """Return how much a step does: its numbers and words that belong to no method."""
    found = bound(step)
    return {
        key: found[key]
        for key, parameter in step.verb.parameters().items()
        if parameter.axis is None
        and not parameter.is_positional
        and isinstance(found.get(key), int | float | str)
        and not isinstance(found[key], bool)
    }
