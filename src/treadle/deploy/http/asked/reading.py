"""From the bytes of a body to its values; what is wrong is said in terms of what was sent."""

from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any, TypeVar

from pydantic import ValidationError
from pydantic_core import ErrorDetails, from_json

from treadle.deploy.http.asked.base import AskedBody
from treadle.deploy.http.asked.lists import NEUTRAL
from treadle.deploy.http.errors import ApiError

__all__ = ["parse"]

A = TypeVar("A", bound=AskedBody)
_MOST_SHOWN = 80
"""Characters of a value that an error shows."""
_MOST_FORGIVEN = 3
"""Rounds of `_forgiven`: what was taken out of a union's branch may show another mistake."""
Place = list[str | int]


def parse(kind: type[A], body: bytes) -> A:
    """Return a body that was checked.

    Whole numbers written with a point (``16.0``) count as whole, and unknown names whose value is
    null as left out: several languages cannot send them otherwise.

    Raises:
        ApiError: It is no JSON object, or a parameter is unknown, refused or of another type.
    """
    values = _object(body)
    for name in list(values):
        if name not in kind.model_fields:
            _pass_over(kind, name, values)
    num_rounds = 0
    while True:
        try:
            return kind.model_validate(values)
        except ValidationError as error:
            is_over = num_rounds == _MOST_FORGIVEN
            if is_over or not _forgiven(values, error.errors(include_url=False)):
                raise _refused(kind, values, error) from error
        num_rounds += 1


def _object(body: bytes) -> dict[str, Any]:  # Any: JSON values
    try:
        values = from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise ApiError(
            400, f"The body is no JSON in UTF-8 ({error}); send a JSON object.", "invalid_json"
        ) from error
    if not isinstance(values, dict):
        raise ApiError(
            400,
            f"The body is a JSON {type(values).__name__}, expected an object; send parameters by "
            f"name.",
            "invalid_json",
        )
    return values


def _pass_over(kind: type[AskedBody], name: str, values: dict[str, Any]) -> None:
    """Take out a parameter that changes nothing, and refuse any other."""
    if name in kind.ignored or values[name] is None or _is_neutral(kind, name, values[name]):
        del values[name]
        return
    if name in kind.refused:
        raise ApiError(
            400,
            f"The parameter '{name}' is not supported: {kind.refused[name]}; leave it out.",
            kind.codes.get(name, "unsupported_parameter"),
            name,
        )
    shown = name[:_MOST_SHOWN]
    close = get_close_matches(name, list(kind.model_fields), n=1, cutoff=0.5)
    hint = f"Did you mean '{close[0]}'?" if close else "Leave it out; /openapi.json lists all."
    raise ApiError(400, f"Unknown parameter '{shown}'. {hint}", "unknown_parameter", shown)


def _is_neutral(kind: type[AskedBody], name: str, value: object) -> bool:
    """Return whether a refused parameter asks for what happens anyway."""
    neutral = NEUTRAL.get(name, ()) if name in kind.refused else ()
    return any(type(value) is type(known) and value == known for known in neutral)


def _forgiven(values: dict[str, Any], errors: Sequence[ErrorDetails]) -> bool:
    """Mend what is said in another way only; return whether anything was."""
    is_mended = False
    for error in errors:
        *above, last = place = _place(values, error)
        holder = _at(values, above)
        given = error["input"]
        if error["type"] == "extra_forbidden" and given is None:
            holder.pop(last, None)
            is_mended = True
        if error["type"] == "int_type" and isinstance(given, float) and given.is_integer():
            if isinstance(last, int):  # a list of numbers has one error for all
                values[str(place[0])] = _whole(values[str(place[0])])
            else:
                holder[last] = int(given)
            is_mended = True
    return is_mended


def _whole(values: Any) -> Any:  # Any: JSON values
    """Return lists with their integral floats as whole numbers."""
    if isinstance(values, list):
        return [_whole(value) for value in values]
    return int(values) if isinstance(values, float) and values.is_integer() else values


def _place(values: Any, error: ErrorDetails) -> Place:  # Any: JSON values
    """Return where in the body an error lies: its path without the names of unions' branches."""
    found: Place = []
    steps = error["loc"]
    for number, step in enumerate(steps):
        is_missing = error["type"] == "missing" and number == len(steps) - 1
        is_key = isinstance(values, dict) and step in values
        is_index = isinstance(values, list) and isinstance(step, int) and step < len(values)
        if is_missing or is_key or is_index:
            found.append(step)
            values = values[step] if is_key or is_index else None
    return found or list(steps[:1])


def _at(values: Any, place: Place) -> Any:  # Any: JSON values
    for step in place:
        values = values[step]
    return values


def _refused(kind: type[AskedBody], values: dict[str, Any], error: ValidationError) -> ApiError:
    """Return the mistake of the branch that fits best: what was found, what was expected where."""
    first = _likeliest(values, error.errors(include_url=False))
    place = _place(values, first)
    name = str(place[0]) if place else ""
    if first["type"] == "missing" and len(place) == 1:
        return ApiError(400, f"The parameter '{name}' is missing; add it.", "missing", name)
    where = _written(place)
    meaning = kind.says(name)
    expected = f" Expected for '{name}': {meaning}" if meaning else ""
    if first["type"] == "missing":
        message = f"{where} is missing; add it.{expected}"
    elif first["type"] == "extra_forbidden":
        message = f"There is no {where} here; leave it out."
    else:
        message = f"Found {where} = {_shown(first['input'])}: {first['msg']}.{expected} Change it."
    is_type = first["type"].endswith("_type")
    return ApiError(400, message, "invalid_type" if is_type else "invalid_value", name)


def _likeliest(values: dict[str, Any], errors: Sequence[ErrorDetails]) -> ErrorDetails:
    """Return the first mistake of the branch that read furthest; what we word ourselves wins."""
    branches: dict[tuple[str | int, ...], ErrorDetails] = {}
    for error in errors:
        place = _place(values, error)
        tags = list(error["loc"])
        for step in place:
            tags.remove(step)
        key = (str(place[:1]), *tags)
        if key not in branches or (error["type"] == "unsupported" != branches[key]["type"]):
            branches[key] = error
    return max(
        branches.values(),
        key=lambda error: (error["type"] == "unsupported", *_reach(_place(values, error))),
    )


def _reach(place: Place) -> tuple[int, list[int]]:
    return len(place), [step for step in place if isinstance(step, int)]


def _written(place: Place) -> str:
    """Return a path as people write it: messages[0].content[1].type."""
    text = ""
    for step in place:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else str(step)
    return text


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _MOST_SHOWN else text[: _MOST_SHOWN - 3] + "..."
