"""Schemas as clients write them: where their references lead, and whether they can be compiled."""

from typing import Any

__all__ = ["flaw_in", "referring"]

Plain = dict[str, Any]
"""JSON values."""
_MOST_PARTS = 2500
_MOST_VALUES = 10_000
"""Of a schema; compiling it takes seconds at most."""


def referring(schema: Plain) -> Plain:
    """Return a schema whose references begin with ``#`` where they lead to a place inside of it.

    litellm sends ``/$defs/Place`` to /v1/messages for what was ``#/$defs/Place``.
    """

    def mended(value: Any) -> Any:  # Any: JSON values
        if isinstance(value, list):
            return [mended(part) for part in value]
        if not isinstance(value, dict):
            return value
        found = {name: mended(part) for name, part in value.items()}
        given = found.get("$ref")
        if isinstance(given, str) and given.startswith("/") and _leads(schema, given):
            found["$ref"] = f"#{given}"
        return found

    known: Plain = mended(schema)
    return known


def flaw_in(schema: Plain) -> str | None:
    """Return why a schema is not to be compiled: its size, or a reference to itself."""
    num_parts = num_values = 0
    waiting: list[Any] = [schema]  # Any: JSON values
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            num_parts += 1
            waiting += value.values()
            if _loops(schema, value):
                return f"the reference {value['$ref']} leads back to itself"
        elif isinstance(value, list):
            num_values += len(value)
            waiting += [part for part in value if isinstance(part, dict | list)]
    for count, most, what in (
        (num_parts, _MOST_PARTS, "parts"),
        (num_values, _MOST_VALUES, "values in lists"),
    ):
        if count > most:
            return f"it has {count} {what}, and the most that is compiled are {most}"
    return None


def _loops(schema: Plain, value: Plain) -> bool:
    """Return whether following a reference never comes to anything but references."""
    seen: set[str] = set()
    while isinstance(given := value.get("$ref"), str) and given.startswith("#"):
        if given in seen:
            return True
        seen.add(given)
        found = _at(schema, given[1:])
        if not isinstance(found, dict):
            return False
        value = found
    return False


def _leads(schema: Plain, path: str) -> bool:
    """Return whether a JSON pointer names a schema inside of `schema`."""
    return isinstance(_at(schema, path), dict | bool)


def _at(schema: Plain, path: str) -> Any:  # Any: JSON values, None where there are none
    """Return what a JSON pointer names."""
    place: Any = schema  # Any: JSON values
    for step in path.split("/")[1:]:
        name = step.replace("~1", "/").replace("~0", "~")
        if isinstance(place, dict) and name in place:
            place = place[name]
        elif isinstance(place, list) and name.isdigit() and int(name) < len(place):
            place = place[int(name)]
        else:
            return None
    return place
