"""Messages of a conversation as people and programs write them, as chat templates read them."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from treadle.core.errors import DataError
from treadle.core.registry import near

__all__ = ["Messages", "asked_first", "plain_messages"]

Messages = Sequence[Mapping[str, Any]]  # Any: what a chat template reads
Plain = dict[str, Any]  # Any: what a chat template reads
_ROLES = ("system", "developer", "user", "assistant", "tool")
_MOST_SHOWN = 60


def plain_messages(messages: Messages) -> list[Plain]:
    """Return messages with their contents as texts and the arguments of calls as objects.

    Args:
        messages: Each with a role (developer means system) and a content: a text, None, or a list
            of parts ``{"type": "text", "text": ...}``. Calls of tools and their answers go in as
            OpenAI's interface has them; whatever else a message holds is for the template.

    Raises:
        DataError: A role or a part is unknown, or a call is none.
    """
    return [_plain(f"messages[{place}]", message) for place, message in enumerate(messages)]


def _plain(where: str, message: Mapping[str, Any]) -> Plain:  # Any: as above
    found = dict(message)
    role = found.get("role")
    if role not in _ROLES:
        hint = near(role if isinstance(role, str) else "", list(_ROLES))
        raise DataError(f"Found {where}.role = {_shown(role)}, which is no role. {hint}")
    if role == "developer":
        found["role"] = "system"
    calls = found.get("tool_calls")
    if "content" in found or calls:
        found["content"] = _text(f"{where}.content", found.get("content"))
    if calls:
        found["tool_calls"] = _calls(f"{where}.tool_calls", calls)
    else:
        found.pop("tool_calls", None)
    return found


def _text(where: str, content: object) -> str:
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if not isinstance(content, Sequence) or isinstance(content, bytes):
        raise DataError(
            f"Found {where} = {_shown(content)}, expected a text or a list of text parts; give one."
        )
    return "".join(_part(f"{where}[{place}]", part) for place, part in enumerate(content))


def _part(where: str, part: object) -> str:
    kind = part.get("type") if isinstance(part, Mapping) else None
    if kind not in (None, "text"):
        raise DataError(
            f"Found {where} of type {_shown(kind)}, and the models here read text only; leave it "
            f"out."
        )
    text = part.get("text") if isinstance(part, Mapping) and kind else None
    if not isinstance(text, str):
        raise DataError(
            f"Found {where} = {_shown(part)}, expected a part of text; give "
            f'{{"type": "text", "text": "Hello"}}.'
        )
    return text


def asked_first(messages: Messages) -> str:
    """Return the text of the first message of the user, by which a conversation is routed.

    So a conversation stays with the model that began it, and what is cached of it counts.

    Raises:
        DataError: No message is the user's.
    """
    for message in messages:
        if isinstance(message, Mapping) and message.get("role") == "user":
            content = message.get("content")
            if isinstance(content, str):
                return content
            parts = content if isinstance(content, Sequence) else []
            return "".join(str(p.get("text", "")) for p in parts if isinstance(p, Mapping))
    raise DataError("The conversation has no message of the user to be routed by; add one.")


def _calls(where: str, calls: object) -> list[Plain]:
    if not isinstance(calls, Sequence) or isinstance(calls, str | bytes):
        raise DataError(f"Found {where} = {_shown(calls)}, expected a list of calls; give one.")
    return [_call(f"{where}[{place}]", call) for place, call in enumerate(calls)]


def _call(where: str, call: object) -> Plain:
    function = call.get("function") if isinstance(call, Mapping) else None
    name = function.get("name") if isinstance(function, Mapping) else None
    if not isinstance(call, Mapping) or not isinstance(function, Mapping) or type(name) is not str:
        raise DataError(
            f"Found {where} = {_shown(call)}, expected a call; give "
            f'{{"type": "function", "function": {{"name": "look", "arguments": {{}}}}}}.'
        )
    arguments = _arguments(function.get("arguments"))
    return {**call, "function": {**function, "arguments": arguments}}


def _arguments(given: object) -> object:
    """Return arguments as templates want them: an object, not its JSON.

    What a model wrote and was cut off in stays the text that it is: the conversation goes on.
    """
    if not isinstance(given, str):
        return {} if given is None else given
    try:
        found: object = json.loads(given or "{}")
    except ValueError:
        return given
    return {} if found is None else found


def _shown(given: object) -> str:
    text = repr(given)
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}..."
