"""Settings of a verb as a person wrote them in a file, checked against its signature."""

from pathlib import Path
from typing import Any, get_origin

from pydantic import TypeAdapter, ValidationError

from treadle.core.errors import SettingsError
from treadle.core.method import first_mistake
from treadle.core.registry import Registry, near
from treadle.core.sizes import WRITTEN
from treadle.core.verb import Verb, VerbParameter

__all__ = ["LONGEST_NAME", "check_entries", "check_settings", "is_plain_name"]

LONGEST_NAME = 200
"""Bytes of an artefact's name: file systems take 255, and notes and copies beside it add to it."""
_SIXTY = 60
"""YAML 1.1 reads 2:4 as 2 minutes and 4 seconds."""


def check_settings(where: str, verb: Verb, settings: dict[str, Any]) -> None:  # Any: YAML values
    """Check a step's settings in place, and gather those of its method under the key 'method'.

    Raises:
        SettingsError: One is unknown, missing, of another type or out of bounds; the message begins
            with `where` and suggests the near one.
    """
    _require_names(where, settings)
    table, parameters = verb.methods(), verb.parameters()
    fields, required = list(parameters), {k for k, p in parameters.items() if p.is_required}
    if table is not None:
        if "method" not in settings:
            raise SettingsError(f"{where} names no method. {near('', table.table)}")
        method = table[settings["method"]]
        fields += list(method.fields())
        required |= method.required_parameters
        chosen = {k: settings.pop(k) for k in list(settings) if k in method.fields()}
        settings["method"] = {"method": settings["method"], **chosen}
        table.resolve(settings["method"])
    axes = {key: parameter for key, parameter in parameters.items() if parameter.axis is not None}
    for key in settings:
        if key not in {"method", *parameters} and key.partition(".")[0] not in axes:
            raise SettingsError(f"{where}: unknown setting '{key}'. {near(key, fields)}")
    for key, parameter in parameters.items():
        if key in required and key not in settings:
            raise SettingsError(f"{where}: the setting '{key}' is missing; add it.")
        if key in settings and key not in axes:
            settings[key] = _checked(where, parameter, settings[key])
    bound = verb.bind(settings)
    for key, parameter in axes.items():
        # An object of settings has checked its own.
        if parameter.axis is not None and bound.get(key) is not None and not parameter.owner:
            _check_axis(parameter.axis, bound[key], parameter.default)


def _require_names(where: str, settings: dict[Any, Any]) -> None:  # Any: YAML values
    for key in settings:
        if not isinstance(key, str):
            raise SettingsError(
                f"{where}: the key {key!r} is no name of a setting; write a name before the colon."
            )


def check_entries(path: Path, document: dict[str, Any]) -> None:  # Any: YAML values
    """Require that what stands beside the steps is of its type; an empty entry is none.

    Raises:
        SettingsError: One is of another type.
    """
    kinds = {
        "out": ("the path of a folder", _is_path),
        "artefacts": ("names, each with a path or a source", _is_mapping_of_texts),
        "temporary": ("a list of names", _is_list_of_texts),
    }
    for key, (wanted, is_one) in kinds.items():
        if document.get(key) is None:
            document.pop(key, None)
        elif not is_one(document[key]):
            raise SettingsError(f"'{path}' says {key}: {str(document[key])[:60]!r}; give {wanted}.")


def _is_path(value: object) -> bool:
    if not isinstance(value, str) or not value.strip() or not value.isprintable():
        return False
    return all(len(part.encode()) <= LONGEST_NAME for part in Path(value).parts)


def _is_mapping_of_texts(value: object) -> bool:
    return isinstance(value, dict) and _is_list_of_texts([*value, *value.values()])


def _is_list_of_texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(entry, str) for entry in value)


def is_plain_name(name: str) -> bool:
    """Say whether a name is one of a file that is seen, in any folder."""
    is_one = bool(name) and Path(name).name == name and not name.startswith(".")
    return is_one and name.isprintable() and len(name.encode()) <= LONGEST_NAME


def _check_axis(axis: Registry[Any], value: Any, default: Any) -> None:  # Any: YAML values
    """Check an axis's method and its settings; without a name they are checked by the verb."""
    default = default if isinstance(default, str) else None
    if default is not None or not isinstance(value, dict) or "method" in value:
        axis.resolve(value, default)


def _checked(where: str, parameter: VerbParameter, value: Any) -> Any:  # Any: YAML values
    """Return a setting in its parameter's type."""
    try:
        checked = TypeAdapter(parameter.annotation).validate_python(value, context=WRITTEN)
    except ValidationError as error:
        raise SettingsError(
            f"{where}: {parameter.name} = {value!r} is refused: {first_mistake(error).expected}. "
            f"{_mend(parameter, value)}"
        ) from error
    # A path may be the name of an artefact, which is looked up when the step runs.
    is_path = any(
        isinstance(v, Path) for v in (checked if isinstance(checked, list) else [checked])
    )
    return value if is_path else checked


def _mend(parameter: VerbParameter, value: Any) -> str:  # Any: YAML values
    if isinstance(value, str) and list in (get_origin(parameter.annotation), parameter.annotation):
        return f"Write a list: [{value}]."
    if isinstance(value, int | float) and not isinstance(value, bool):
        said = "Give it in the right type; YAML reads 2:4 as a number unless it is quoted"
        if isinstance(value, int) and value >= _SIXTY:
            return f"{said}: if you wrote {value // _SIXTY}:{value % _SIXTY}, put quotes around it."
        return f"{said}."
    return "Give it in the right type."
