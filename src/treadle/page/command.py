"""The command that would repeat a run, where the result says enough to be exact."""

import shlex
from typing import Any

from treadle.core.errors import TreadleError
from treadle.core.result import Result
from treadle.core.sizes import is_bytes, written
from treadle.core.verb import Verb
from treadle.page.sources import Run
from treadle.verbs import VERBS

__all__ = ["repeat_command"]


def repeat_command(run: Run) -> str:
    """Return the command line that repeats `run`, or an empty string where it might not be exact.

    It is left out for unknown verbs and methods, for settings that no flag takes, and for outputs
    with required side files, because flags outside the settings allowed those.
    """
    result = run.result
    verb = _verb(result)
    if verb is None or not run.is_portable:
        return ""
    try:
        values = _values(result, verb)
        if values is None or not set(values) <= _flags(verb, result.method):
            return ""
    except (TreadleError, ImportError, KeyError):
        return ""
    parameters = verb.parameters()
    places = _places(result)
    positional = [name for name, entry in parameters.items() if entry.is_positional]
    if not all(places.get(name) for name in positional):
        return ""
    named = result.method if verb.table is not None else ""
    words = ["treadle", *result.command.split(), named]
    for name in positional:
        words += places[name]
    for name, value in values.items():
        if name not in positional:
            is_size = name in parameters and is_bytes(parameters[name].annotation)
            words += _words(name, written(value) if is_size and value is not None else value)
    return shlex.join(filter(None, words))


def _places(result: Result) -> dict[str, list[str]]:
    """Return what the words behind the command's name may stand for."""
    places = {entry.name: [entry.path] for entry in result.inputs}
    models = [entry.path for entry in result.inputs if entry.role == "model"]
    return {**places, "models": models, "out": [result.output] if result.output else []}


def _verb(result: Result) -> Verb | None:
    verb = VERBS.get(result.verb)
    return verb.action(result.action) if verb is not None and result.action else verb


def _words(name: str, value: Any) -> list[str]:  # Any: JSON values
    """Return the words of a flag; what is not set or switched off has none."""
    flag = f"--{name.replace('_', '-')}"
    if value is None or value is False:
        return []
    if value is True:
        return [flag]
    if isinstance(value, list):
        return [flag, *map(str, value)] if value else []
    return [flag, str(value)]


def _flags(verb: Verb, method: str) -> set[str]:
    """Return the names of all that can be given: of parameters, of settings, of axes' settings."""
    table = verb.methods()
    found = set(verb.parameters()) | (set() if table is None else set(table[method].fields()))
    for name, entry in verb.parameters().items():
        if entry.axis is not None:
            fields = (entry.axis[one].fields() for one in entry.axis.table)
            found |= {f"{name}.{key}" for one in fields for key in one}
    return found


def _values(result: Result, verb: Verb) -> dict[str, Any] | None:  # Any: JSON values
    """Return what the flags must say, or None where a setting has no form on the command line."""
    parameters = verb.parameters()
    values: dict[str, Any] = {}
    for name, value in result.settings.items():
        if name == "method":
            continue
        if not isinstance(value, dict):
            values[name] = value
            continue
        entry = parameters.get(name)
        if entry is None or entry.axis is None:
            return None
        chosen = dict(value)
        values[name] = chosen.pop("method")
        own = entry.axis[values[name]].fields()
        values |= {
            f"{name}.{key}": setting
            for key, setting in chosen.items()
            if key not in own or setting != own[key].default
        }
    for read in result.inputs:
        if read.name in parameters:
            values.setdefault(read.name, read.path)
        elif read.role not in ("config", "model" if "models" in parameters else "config"):
            return None
    return {**values, "seed": result.seed} if "seed" in parameters else values
