"""The command that would repeat a run, where the result says enough to be exact."""

import shlex
from typing import Any

from treadle.core.errors import TreadleError
from treadle.core.result import Result
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
    verb = VERBS.get(result.verb)
    if verb is None or not run.is_portable:
        return ""
    try:
        known = _flags(verb, result.method)
    except (TreadleError, ImportError, KeyError):
        return ""
    values = _values(result, verb)
    if values is None or not set(values) <= known:
        return ""
    positional = [name for name, entry in verb.parameters().items() if entry.is_positional]
    places = {entry.name: entry.path for entry in result.inputs} | {"out": result.output}
    if not all(places.get(name) for name in positional):
        return ""
    words = ["treadle", result.verb, result.method, *(places[name] for name in positional)]
    for name, value in values.items():
        if name in positional or value is None or value is False:
            continue
        words.append(f"--{name.replace('_', '-')}")
        if value is not True:
            words.append(str(value))
    return shlex.join(words)


def _flags(verb: Verb, method: str) -> set[str]:
    table = verb.methods()
    fields = set() if table is None else set(table[method].fields())
    return set(verb.parameters()) | fields


def _values(result: Result, verb: Verb) -> dict[str, Any] | None:  # Any: JSON values
    """Return what the flags must say, or None where a setting has no form on the command line."""
    values: dict[str, Any] = {}
    for name, value in result.settings.items():
        if name == "method":
            continue
        if isinstance(value, dict):
            if not _is_default(verb, name, value):
                return None
            value = value["method"]
        if isinstance(value, list):
            return None
        values[name] = value
    for entry in result.inputs:
        values.setdefault(entry.name, entry.path)
    return {**values, "seed": result.seed}


def _is_default(verb: Verb, name: str, value: dict[str, Any]) -> bool:  # Any: JSON values
    """Whether the method of an axis has its default settings: flags can name it, not set it up."""
    parameter = verb.parameters().get(name)
    if parameter is None or parameter.axis is None:
        return False
    try:
        return bool(parameter.axis.resolve(str(value.get("method"))).settings() == value)
    except TreadleError:
        return False
