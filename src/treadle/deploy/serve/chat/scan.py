"""Reads calls of tools out of JSON while it comes: arguments go on as they are written."""

import json
import re
from collections.abc import Collection
from typing import Any, NamedTuple

from treadle.deploy.serve.chat.pieces import ChatPiece

__all__ = ["BETWEEN", "CallScanner", "Scanned", "call_in"]

_HEAD = re.compile(
    r'\{\s*(?:"type"\s*:\s*"function"\s*,\s*)?"name"\s*:\s*(?P<name>"(?:[^"\\]|\\.)*")\s*,\s*'
    r'"(?:arguments|parameters)"\s*:\s*\{',
    re.DOTALL,
)
"""An object up to where its arguments begin."""
BETWEEN = " \t\r\n[],;"
"""What may stand before, between and behind calls."""
_NEVER = "<"
"""Stands in no JSON outside of its texts: a mark of the family's follows."""


class Scanned(NamedTuple):
    """What was found in a text, and what is left of it."""

    pieces: list[ChatPiece]
    is_stray: bool
    """Whether what is left belongs to no call."""
    rest: str


class _Nesting:
    """How deep in objects and lists a JSON text is."""

    def __init__(self) -> None:
        self.depth = 0
        self.is_text = False
        self._is_escaped = False

    def step(self, sign: str) -> None:
        if self._is_escaped:
            self._is_escaped = False
        elif self.is_text:
            self._is_escaped = sign == "\\"
            self.is_text = sign != '"'
        elif sign == '"':
            self.is_text = True
        elif sign in "{[":
            self.depth += 1
        elif sign in "}]":
            self.depth -= 1


class CallScanner:
    """Finds the objects of a text that are calls: alone, in a list, or parted by semicolons.

    A call whose name precedes its arguments, as all families write it, begins as soon as both have
    begun; another once its object is whole.

    Args:
        names: Of the functions that may be called; None: of any name.
    """

    def __init__(self, names: Collection[str] | None = None) -> None:
        self._names = names
        self._nesting = _Nesting()
        self._head = ""
        """The object so far, while its arguments have not begun."""
        self.raw = ""
        """All since the last call ended."""
        self.is_open = False
        """Whether a call has begun and not ended."""
        self.num_calls = 0

    def feed(self, text: str) -> Scanned:
        """Take in what is new, up to where something stands that belongs to no call."""
        pieces: list[ChatPiece] = []
        for at, sign in enumerate(text):
            if not self._nesting.depth and sign != "{":
                if sign not in BETWEEN:
                    return Scanned(_joined(pieces), True, text[at:])
                self.raw += sign
                continue
            if self.is_open and sign == _NEVER and not self._nesting.is_text:
                self._close()
                return Scanned(_joined(pieces), True, text[at:])
            if not self._take(sign, pieces):
                return Scanned(_joined(pieces), True, text[at + 1 :])
        return Scanned(_joined(pieces), False, "")

    def _take(self, sign: str, pieces: list[ChatPiece]) -> bool:
        """Take in a sign of an object; return False where the object is no call."""
        before = self._nesting.depth
        self._nesting.step(sign)
        self.raw += sign
        if self.is_open:
            if before > 1:  # inside of the arguments, their last sign included
                pieces.append(ChatPiece("arguments", sign))
            if not self._nesting.depth:
                self._close()
            return True
        self._head += sign
        if not self._nesting.depth:
            return self._take_whole(pieces)
        if sign == "{" and self._nesting.depth == 2 and (found := _HEAD.fullmatch(self._head)):
            return self._begin(found["name"], pieces)
        return True

    def _begin(self, name: str, pieces: list[ChatPiece]) -> bool:
        try:
            called = str(json.loads(name))
        except ValueError:  # an escape that JSON does not know
            return True
        if self._names is not None and called not in self._names:
            return True
        self.is_open = True
        self.num_calls += 1
        pieces += [ChatPiece("call", called), ChatPiece("arguments", "{")]
        return True

    def _take_whole(self, pieces: list[ChatPiece]) -> bool:
        found = call_in(self._head)
        self._head = ""
        if found is None or (self._names is not None and found[0] not in self._names):
            return False
        self.num_calls += 1
        pieces += [ChatPiece("call", found[0]), ChatPiece("arguments", found[1])]
        self._close()
        return True

    def _close(self) -> None:
        self.is_open = False
        self._head = self.raw = ""
        self._nesting = _Nesting()


def call_in(text: str) -> tuple[str, str] | None:
    """Return the name and the arguments of a call, None where the text is none."""
    try:
        entry = json.loads(text)
    except ValueError:
        return None
    if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
        return None
    return entry["name"], _arguments(entry.get("arguments", entry.get("parameters")))


def _arguments(found: Any) -> str:  # Any: JSON values
    """Return arguments as JSON; those that a model wrote as a text of JSON are that text."""
    if isinstance(found, str):
        return found
    return "{}" if found is None else json.dumps(found, ensure_ascii=False)


def _joined(pieces: list[ChatPiece]) -> list[ChatPiece]:
    """Return the same with neighbouring arguments in one piece."""
    found: list[ChatPiece] = []
    for piece in pieces:
        if found and piece.kind == found[-1].kind == "arguments":
            found[-1] = ChatPiece("arguments", found[-1].text + piece.text)
        else:
            found.append(piece)
    return found
