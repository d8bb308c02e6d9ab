"""The arguments of a call that comes back in a conversation, whole or cut off."""

import json
import re
from typing import Any

__all__ = ["arguments_of"]

_UNREAD = "arguments"
"""Under this name stands what is no object."""
_CUT_ESCAPE = re.compile(r"\\u[0-9a-fA-F]{0,3}$")
_ENDS = {"{": "}", "[": "]"}


def arguments_of(given: str | dict[str, Any] | None) -> dict[str, Any]:  # Any: JSON values
    """Return arguments as templates want them: an object.

    What a token limit cut off is closed where it ended; what is no JSON, or no object, stands under
    the name "arguments" as it came. So a model sees all that it wrote, and no answer of this server
    can make the next request fail.
    """
    if isinstance(given, dict):
        return given
    text = (given or "").strip()
    if text in ("", "null"):
        return {}
    found = _read(text)
    if found is None and text.startswith("{"):
        found = _read(_closed(text))
    return found if isinstance(found, dict) else {_UNREAD: text if found is None else found}


def _read(text: str) -> Any:  # Any: JSON values, None where it is none
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _closed(text: str) -> str:
    """Return JSON that was cut off with what is open closed.

    A name without a value, and a value that was cut inside of a word or number, goes.
    """
    open_ends: list[str] = []
    is_text = is_escaped = False
    whole, whole_ends = "{", ["}"]  # up to the last place where a value had ended
    for at, sign in enumerate(text):
        if is_text:
            is_text, is_escaped = is_escaped or sign != '"', not is_escaped and sign == "\\"
        elif sign == '"':
            is_text = True
        elif sign in _ENDS:
            open_ends.append(_ENDS[sign])
            whole, whole_ends = text[: at + 1], list(open_ends)
        elif sign in "}]" and open_ends:
            open_ends.pop()
            whole, whole_ends = text[: at + 1], list(open_ends)
        elif sign == ",":
            whole, whole_ends = text[:at], list(open_ends)
    ends = "".join(reversed(open_ends))
    if is_text:
        cut = _CUT_ESCAPE.sub("", text[:-1] if is_escaped else text)
        tries = [f'{cut}"{ends}']
    else:
        tries = [f"{text}{ends}", f"{text}null{ends}"]
    for closed in tries:
        if _read(closed) is not None:
            return closed
    return whole + "".join(reversed(whole_ends))
