"""What a chat template makes of a conversation: found by trying it, as none says so."""

import hashlib
from collections.abc import Callable, Sequence
from itertools import product
from typing import TYPE_CHECKING, Any, NamedTuple

from treadle.core.errors import TreadleError

if TYPE_CHECKING:
    from treadle.model.classes import Tokenizer
    from treadle.model.tokens.plain_tokenizer import PlainTokenizer

__all__ = ["Shown", "short_id", "shown_by"]

Plain = dict[str, Any]
"""A message, as templates read it."""
_TEXT, _SYSTEM, _RESULT = "zqtext", "zqsystem", "zqresult"
_NAME, _KEY, _VALUE = "zqname", "zqkey", "zqvalue"
_TOOL: Plain = {
    "type": "function",
    "function": {
        "name": _NAME,
        "description": _SYSTEM,
        "parameters": {"type": "object", "properties": {_KEY: {"type": "string"}}},
    },
}
_ID = "call_0123456789abcdef01234567"
_SHORT = 9
"""Characters of an id of Mistral's, all letters and digits."""
Rendering = Callable[..., str]


class Shown(NamedTuple):
    """What reaches the model of a conversation, and in which form a template wants it."""

    takes_parts: bool = False
    """Whether the text of a message must be a list of parts."""
    system: bool = True
    """Whether system messages are shown."""
    tools: bool = False
    """Whether the functions that may be called are shown."""
    calls: bool = False
    """Whether earlier calls and their results are shown."""
    arguments_as_text: bool = False
    """Whether arguments of calls must be JSON, not an object."""
    empty_as_null: bool = False
    """Whether a message that only calls must have no content, not an empty one."""
    short_ids: bool = False
    """Whether ids of calls must have nine letters or digits."""


def short_id(given: str) -> str:
    """Return nine letters and digits that stand for an id."""
    if len(given) == _SHORT and given.isalnum():
        return given
    return hashlib.sha256(given.encode()).hexdigest()[:_SHORT]


def shown_by(tokenizer: "Tokenizer | PlainTokenizer", has_tools: bool) -> Shown:
    """Return what a tokenizer's template shows where a request has tools, or none."""
    tools = [_TOOL] if has_tools else None

    def render(messages: Sequence[Plain]) -> str:
        try:
            found: Any = tokenizer.apply_chat_template(  # Any: a text
                list(messages), tools=tools, add_generation_prompt=True, tokenize=False
            )
        except TreadleError:
            raise
        except Exception:  # a template raises what it likes
            return ""
        return str(found)

    takes_parts = _TEXT not in render([_user(False)]) and _TEXT in render([_user(True)])
    user = _user(takes_parts)
    system = {"role": "system", "content": _content(_SYSTEM * 2, takes_parts)}
    plain = Shown(
        takes_parts,
        system=_SYSTEM * 2 in render([system, user]),
        tools=has_tools and _NAME in render([user]),
    )
    return _with_calls(plain, user, render)


def _with_calls(plain: Shown, user: Plain, render: Rendering) -> Shown:
    """Return the same with the first form of calls that is shown."""
    for is_short, is_null, is_text in product((False, True), repeat=3):
        form = plain._replace(
            calls=True, arguments_as_text=is_text, empty_as_null=is_null, short_ids=is_short
        )
        text = render([user, *_call(form)])
        if all(word in text for word in (_NAME, _KEY, _VALUE, _RESULT)):
            return form
    return plain


def _user(takes_parts: bool) -> Plain:
    return {"role": "user", "content": _content(_TEXT, takes_parts)}


def _content(text: str, takes_parts: bool) -> Any:  # Any: a text or its parts
    return [{"type": "text", "text": text}] if takes_parts else text


def _call(form: Shown) -> list[Plain]:
    called = short_id(_ID) if form.short_ids else _ID
    arguments = f'{{"{_KEY}": "{_VALUE}"}}' if form.arguments_as_text else {_KEY: _VALUE}
    return [
        {
            "role": "assistant",
            "content": None if form.empty_as_null else "",
            "tool_calls": [
                {
                    "id": called,
                    "type": "function",
                    "function": {"name": _NAME, "arguments": arguments},
                }
            ],
        },
        {
            "role": "tool",
            "tool_call_id": called,
            "name": _NAME,
            "content": _content(_RESULT, form.takes_parts),
        },
    ]
