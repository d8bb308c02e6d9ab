"""Calls of tools in an answer: how each family of models writes them, and how to find them."""

import json
import secrets
from collections.abc import Sequence
from typing import Any, NamedTuple

from treadle.core.errors import SettingsError
from treadle.core.registry import near
from treadle.deploy.http.asked import Tool

__all__ = ["FORMATS", "Call", "CallReader", "forced_schema", "format_of", "require_format"]


class Call(NamedTuple):
    """A function that the model wants called."""

    name: str
    arguments: str
    """JSON."""

    def to_dict(self, place: int | None = None) -> dict[str, Any]:  # Any: JSON values
        """Return it as OpenAI writes it; with its place where it is streamed."""
        return {
            **({} if place is None else {"index": place}),
            "id": f"call_{secrets.token_hex(12)}",
            "type": "function",
            "function": {"name": self.name, "arguments": self.arguments},
        }


class _Format(NamedTuple):
    """How a family marks calls."""

    begin: str
    """What stands before calls."""
    end: str
    """What stands behind a call; empty: they go on to the end of the answer."""
    is_bare: bool
    """Whether an answer that begins as JSON is a call, too."""


FORMATS = {
    "hermes": _Format("<tool_call>", "</tool_call>", False),
    "llama3": _Format("<|python_tag|>", "", True),
    "mistral": _Format("[TOOL_CALLS]", "", False),
}
"""hermes is also Qwen's."""


def require_format(name: str) -> str:
    """Return `name` if it is "auto" or a format.

    Raises:
        SettingsError: It is neither.
    """
    if name != "auto" and name not in FORMATS:
        raise SettingsError(f"No tool parser '{name}'. {near(name, ['auto', *FORMATS])}")
    return name


def format_of(chat_template: str) -> str:
    """Return the format that a model's chat template shows."""
    if "[TOOL_CALLS]" in chat_template:
        return "mistral"
    if "<|python_tag|>" in chat_template or '"parameters": dictionary' in chat_template:
        return "llama3"
    return "hermes"


def forced_schema(tools: Sequence[Tool], only: str | None, is_single: bool) -> dict[str, Any]:
    """Return the schema of an answer that must call: a list of calls, or one tool's arguments."""
    empty: dict[str, Any] = {"type": "object", "properties": {}}  # Any: JSON values
    schemas = {tool.function.name: tool.function.parameters or empty for tool in tools}
    if only is not None:
        return schemas[only]
    kinds = [
        {
            "type": "object",
            "properties": {"name": {"const": name}, "arguments": schema},
            "required": ["name", "arguments"],
            "additionalProperties": False,
        }
        for name, schema in schemas.items()
    ]
    limit = {"maxItems": 1} if is_single else {}
    return {"type": "array", "items": {"anyOf": kinds}, "minItems": 1, **limit}


class CallReader:
    """Parts an answer into text and calls while it comes.

    Text goes on at once; what may be the start of a call is held back, and what turns out to be
    none is given as text at the end.
    """

    def __init__(self, format_name: str) -> None:
        self._format = FORMATS[format_name]
        self._held = ""
        self._has_text = False
        self._is_call = False

    def feed(self, text: str) -> tuple[str, list[Call]]:
        """Take in a piece; return the text and the calls that are certain now."""
        self._held += text
        shown = ""
        calls: list[Call] = []
        while True:
            if self._is_call:
                found = self._ended()
                if found is None:
                    return shown, calls
                calls += found
                continue
            begin = self._format.begin
            at = self._held.find(begin)
            if at >= 0:
                shown += self._give(at)
                self._held = self._held[len(begin) :]
                self._is_call = True
                continue
            return shown + self._give(len(self._held) - self._num_doubtful()), calls

    def _give(self, length: int) -> str:
        text, self._held = self._held[:length], self._held[length:]
        if not self._has_text and not text.strip():
            return ""  # blanks before a call
        self._has_text = True
        return text

    def _num_doubtful(self) -> int:
        """Return how many characters at the end may belong to a call."""
        if self._format.is_bare and not self._has_text and self._held.lstrip()[:1] in ("{", "["):
            return len(self._held)
        begin = self._format.begin
        longest = min(len(begin) - 1, len(self._held))
        return next((n for n in range(longest, 0, -1) if self._held.endswith(begin[:n])), 0)

    def _ended(self) -> list[Call] | None:
        """Return the calls up to their end mark, or None if it has not come."""
        end = self._format.end
        if not end or end not in self._held:
            return None
        inside, self._held = self._held.split(end, 1)
        self._is_call = False
        calls = _read(inside)
        if not calls:
            self._held = f"{inside}{self._held}"  # malformed: the client sees what it was
            self._has_text = True
        return calls

    def finish(self) -> tuple[str, list[Call]]:
        """Return what is left: calls if it reads as such, else text."""
        calls = _read(self._held)
        if calls and (self._is_call or self._format.is_bare):
            return "", calls
        return (self._format.begin if self._is_call else "") + self._held, []


def _read(text: str) -> list[Call]:
    """Return the calls in a text: one object, a list, or several parted by semicolons."""
    try:
        found = json.loads(text)
    except ValueError:
        parts = [part for part in text.split(";") if part.strip()]
        if len(parts) < 2:
            return []
        calls = [_read(part) for part in parts]
        return [call for part in calls for call in part] if all(calls) else []
    entries = found if isinstance(found, list) else [found]
    calls_found = [_call(entry) for entry in entries]
    return [call for call in calls_found if call] if all(calls_found) else []


def _call(entry: Any) -> Call | None:  # Any: JSON values
    if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
        return None
    arguments = entry.get("arguments", entry.get("parameters", {}))
    if isinstance(arguments, str):
        return Call(entry["name"], arguments)
    return Call(entry["name"], json.dumps(arguments, ensure_ascii=False))
