"""One answer of a conversation: its text, its calls of tools, and why it ended."""

import json
from typing import Any, NamedTuple

from treadle.deploy.serve.tools import Call, CallReader
from treadle.runtime.answer.outputs import Delta

__all__ = ["ChatAnswer", "Plain", "Turn"]

Plain = dict[str, Any]
"""JSON values."""


class Turn(NamedTuple):
    """How an answer is to be read."""

    tool_format: str = "hermes"
    reads_calls: bool = False
    """Whether calls are looked for in the text."""
    is_forced: bool = False
    """Whether the whole answer is kept in the form of calls."""
    only: str | None = None
    """The tool whose arguments the answer is."""
    is_single: bool = False
    """Whether all calls but the first are left out."""


class ChatAnswer:
    """Takes in the pieces of an answer and gives them as a client reads them."""

    def __init__(self, turn: Turn) -> None:
        self._turn = turn
        self._reader = CallReader(turn.tool_format) if turn.reads_calls else None
        self._forced = ""
        self.content = ""
        self.calls: list[Plain] = []
        self.tokens: list[int] = []
        self._finish_reason: str | None = None

    @property
    def finish_reason(self) -> str | None:
        """Why it ended: stop, length or tool_calls."""
        is_call = bool(self.calls) and self._finish_reason == "stop"
        return "tool_calls" if is_call and self._turn.only is None else self._finish_reason

    def take(self, delta: Delta) -> list[Plain]:
        """Take in a piece; return the pieces that a client gets for it."""
        self.tokens += delta.token_ids
        self._finish_reason = delta.finish_reason
        is_last = delta.finish_reason is not None
        if self._turn.is_forced:
            return self._take_forced(delta.text, is_last)
        if self._reader is None:
            return self._show(delta.text, [])
        text, calls = self._reader.feed(delta.text)
        if is_last:
            rest, more = self._reader.finish()
            text, calls = text + rest, calls + more
        return self._show(text, calls)

    def _take_forced(self, text: str, is_last: bool) -> list[Plain]:
        """Hold an answer back until it is whole: a list of calls, or one call's arguments."""
        self._forced += text
        if not is_last:
            return []
        if self._turn.only is not None:
            return self._show("", [Call(self._turn.only, self._forced)])
        try:
            entries = json.loads(self._forced)
        except ValueError:  # cut off by max_tokens: the client sees as much as there is
            return self._show(self._forced, [])
        calls = [Call(e["name"], json.dumps(e["arguments"], ensure_ascii=False)) for e in entries]
        return self._show("", calls)

    def _show(self, text: str, calls: list[Call]) -> list[Plain]:
        self.content += text
        pieces: list[Plain] = [{"content": text}] if text else []
        for call in calls:
            if self.calls and self._turn.is_single:
                break
            entry = call.to_dict(len(self.calls))
            self.calls.append(entry)
            pieces.append({"tool_calls": [entry]})
        return pieces

    def message(self) -> Plain:
        """Return the whole answer as a message."""
        found: Plain = {"role": "assistant", "content": self.content, "refusal": None}
        if self.calls:
            found["content"] = self.content or None
            found["tool_calls"] = [
                {key: value for key, value in call.items() if key != "index"} for call in self.calls
            ]
        return found
