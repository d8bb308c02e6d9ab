"""Calls of tools in an answer: how each family of models writes them, and how to find them."""

from collections.abc import Collection
from typing import NamedTuple

from treadle.core.errors import SettingsError
from treadle.core.registry import near
from treadle.deploy.serve.chat.pieces import ChatPiece
from treadle.deploy.serve.chat.scan import BETWEEN, CallScanner

__all__ = ["FORMATS", "CallFormat", "CallReader", "format_of", "require_format"]


class CallFormat(NamedTuple):
    """How a family marks calls."""

    begin: str
    """What stands before calls."""
    end: str
    """What stands behind a call; empty: they go on to the end of the answer."""
    is_bare: bool
    """Whether an answer that begins as JSON is a call, too."""


FORMATS = {
    "hermes": CallFormat("<tool_call>", "</tool_call>", False),
    "llama3": CallFormat("<|python_tag|>", "", True),
    "mistral": CallFormat("[TOOL_CALLS]", "", False),
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


class CallReader:
    """Parts an answer into text and calls while it comes.

    Text goes on at once, and so do the arguments of a call that has begun; what may be the start of
    a call is held back, and what turns out to be none is given as the text that it was.

    Args:
        format_name: Of `FORMATS`.
        names: Of the functions that a call without a mark may name.
    """

    def __init__(self, format_name: str, names: Collection[str] = ()) -> None:
        self._format, self._names = FORMATS[format_name], names
        self._held = ""
        """What is not certain yet."""
        self._has_text = False
        self._begin = ""
        """The mark before the calls that are being read."""
        self._calls: CallScanner | None = None
        self._is_broken = False
        """Whether all up to the end mark is text."""

    def feed(self, text: str) -> list[ChatPiece]:
        """Take in what is new; return what is certain now."""
        self._held += text
        pieces: list[ChatPiece] = []
        while self._go_on(pieces):
            pass
        return [piece for piece in pieces if piece.text]

    def _go_on(self, pieces: list[ChatPiece]) -> bool:
        """Read as much as is of one kind; return whether something of another kind follows."""
        if self._is_broken:
            return self._pass_broken(pieces)
        if self._calls is not None:
            return self._read_calls(self._calls, pieces)
        begin = self._format.begin
        if self._may_be_bare():
            blanks = len(self._held) - len(self._held.lstrip())
            self._begin, self._held = self._held[:blanks], self._held[blanks:]
            self._calls = CallScanner(self._names)
            return True
        at = self._held.find(begin)
        if at >= 0:
            if self._has_text or self._held[:at].strip():  # blanks before a call are no text
                pieces.append(self._give(at))
                at = 0
            self._begin, self._held = begin, self._held[at + len(begin) :]
            self._calls = CallScanner()
            return True
        certain = len(self._held) - _num_doubtful(self._held, begin)
        if self._has_text or self._held[:certain].strip():
            pieces.append(self._give(certain))
        return False

    def _may_be_bare(self) -> bool:
        is_start = self._format.is_bare and not self._has_text
        return is_start and self._held.lstrip()[:1] in ("{", "[")

    def _give(self, length: int) -> ChatPiece:
        text, self._held = self._held[:length], self._held[length:]
        self._has_text = self._has_text or bool(text.strip())
        return ChatPiece("text", text)

    def _read_calls(self, calls: CallScanner, pieces: list[ChatPiece]) -> bool:
        found = calls.feed(self._held)
        pieces += found.pieces
        self._held = found.rest
        end = self._format.end
        if not found.is_stray:
            return False
        if end and not _has_more(calls):
            if self._held.startswith(end) and calls.num_calls:
                self._calls, self._held = None, self._held[len(end) :]
                return True
            if end.startswith(self._held):  # more of the mark may come
                return False
        self._show_raw(calls, pieces)
        self._is_broken = bool(end)
        return True

    def _show_raw(self, calls: CallScanner, pieces: list[ChatPiece]) -> None:
        """Give what is no call as the text that it was."""
        text = calls.raw if calls.num_calls else self._begin + calls.raw
        pieces.append(ChatPiece("text", text))
        self._has_text = True
        self._calls = None

    def _pass_broken(self, pieces: list[ChatPiece]) -> bool:
        end = self._format.end
        at = self._held.find(end)
        self._is_broken = at < 0
        length = len(self._held) - _num_doubtful(self._held, end) if at < 0 else at + len(end)
        pieces.append(self._give(length))
        return at >= 0

    def finish(self) -> list[ChatPiece]:
        """Return what is left: text, as nothing can become a call any more."""
        pieces: list[ChatPiece] = []
        calls = self._calls
        if calls is not None and not calls.is_open and (_has_more(calls) or not calls.num_calls):
            self._show_raw(calls, pieces)
        pieces.append(ChatPiece("text", self._held))
        self._held = ""
        return [piece for piece in pieces if piece.text]


def _has_more(calls: CallScanner) -> bool:
    """Return whether there is more behind the last call than what parts calls."""
    return bool(calls.raw.strip(BETWEEN))


def _num_doubtful(text: str, mark: str) -> int:
    """Return how many characters at the end may begin a mark."""
    longest = min(len(mark) - 1, len(text))
    return next((n for n in range(longest, 0, -1) if text.endswith(mark[:n])), 0)
