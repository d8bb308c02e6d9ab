"""References in the schemas of tools, as clients write them."""

from typing import Any

from treadle.deploy.serve.chat.pieces import Plain

__all__ = ["referring"]


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


def _leads(schema: Plain, path: str) -> bool:
    """Return whether a JSON pointer names a schema inside of `schema`."""
    place: Any = schema  # Any: JSON values
    for step in path.split("/")[1:]:
        name = step.replace("~1", "/").replace("~0", "~")
        if isinstance(place, dict) and name in place:
            place = place[name]
        elif isinstance(place, list) and name.isdigit() and int(name) < len(place):
            place = place[int(name)]
        else:
            return False
    return isinstance(place, dict | bool)
