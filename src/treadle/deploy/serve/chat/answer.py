"""One answer of a conversation: its thoughts, its text, its calls of tools, and why it ended."""

import secrets
from collections.abc import Collection
from typing import NamedTuple

from treadle.deploy.serve.chat.arguments import arguments_of
from treadle.deploy.serve.chat.calls import CallReader
from treadle.deploy.serve.chat.pieces import ChatPiece, Plain
from treadle.deploy.serve.chat.scan import CallScanner
from treadle.deploy.serve.chat.thoughts import ThoughtReader
from treadle.runtime.answer.outputs import Delta

__all__ = ["Called", "ChatAnswer", "Turn"]


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
    names: Collection[str] = ()
    """Of the tools."""
    thinks: bool = False
    """Whether the answer may begin with thoughts."""
    is_thinking: bool = False
    """Whether the prompt has opened the thoughts."""


class Called:
    """A call of a tool, as far as it was written."""

    def __init__(self, name: str) -> None:
        self.name, self.arguments = name, ""
        self.id = f"call_{secrets.token_hex(12)}"

    @property
    def input(self) -> Plain:
        """Its arguments as an object; what was cut off is closed."""
        return arguments_of(self.arguments)

    def to_dict(self) -> Plain:
        """Return it as OpenAI's chats write it."""
        function = {"name": self.name, "arguments": self.arguments or "{}"}
        return {"id": self.id, "type": "function", "function": function}


class ChatAnswer:
    """Takes in the pieces of an answer and gives them as a client reads them."""

    def __init__(self, turn: Turn) -> None:
        self._turn = turn
        self._thoughts = ThoughtReader(turn.is_thinking) if turn.thinks else None
        self._reader = CallReader(turn.tool_format, turn.names) if turn.reads_calls else None
        self._forced = CallScanner() if turn.is_forced and turn.only is None else None
        self.content = self.thought = ""
        self.calls: list[Called] = []
        self.tokens: list[int] = []
        self.stop_reason: int | str | None = None
        """The stop token or string that ended it."""
        self._finish_reason: str | None = None
        self._is_left_out = False
        """Whether the call that comes is one too many."""

    @property
    def finish_reason(self) -> str | None:
        """Why it ended: stop, length or tool_calls."""
        is_call = bool(self.calls) and self._finish_reason == "stop"
        return "tool_calls" if is_call and self._turn.only is None else self._finish_reason

    def take(self, delta: Delta) -> list[ChatPiece]:
        """Take in what is new; return the pieces that a client gets for it."""
        self.tokens += delta.token_ids
        self._finish_reason, self.stop_reason = delta.finish_reason, delta.stop_reason
        is_last = delta.finish_reason is not None
        found: list[ChatPiece] = []
        for piece in self._thought_of(delta.text, is_last):
            found += [piece] if piece.kind == "thought" else self._read(piece.text)
        if is_last:
            found += self._finish()
        return [kept for piece in found if (kept := self._keep(piece)) is not None]

    def _thought_of(self, text: str, is_last: bool) -> list[ChatPiece]:
        if self._thoughts is None:
            return [ChatPiece("text", text)] if text else []
        return [*self._thoughts.feed(text), *(self._thoughts.finish() if is_last else [])]

    def _read(self, text: str) -> list[ChatPiece]:
        """Return the calls and the text in what is no thought."""
        if self._turn.only is not None:
            begin = [] if self.calls else [ChatPiece("call", self._turn.only)]
            return [*begin, ChatPiece("arguments", text)]
        if self._forced is not None:
            return self._forced.feed(text).pieces
        return [ChatPiece("text", text)] if self._reader is None else self._reader.feed(text)

    def _finish(self) -> list[ChatPiece]:
        if self._reader is not None:
            return self._reader.finish()
        forced = self._forced
        # Cut off before the first call began: the client sees as much as there is.
        is_lost = forced is not None and not forced.num_calls and forced.raw
        return [ChatPiece("text", forced.raw)] if forced is not None and is_lost else []

    def _keep(self, piece: ChatPiece) -> ChatPiece | None:
        """Note a piece down; return it with the place of its call, None where it is left out."""
        if piece.kind == "text":
            self.content += piece.text
            return piece
        if piece.kind == "thought":
            self.thought += piece.text
            return piece
        if piece.kind == "call":
            self._is_left_out = bool(self.calls) and self._turn.is_single
            if not self._is_left_out:
                self.calls.append(Called(piece.text))
        if self._is_left_out:
            return None
        call = self.calls[-1]
        if piece.kind == "arguments":
            call.arguments += piece.text
        return piece._replace(place=len(self.calls) - 1, id=call.id)
