"""What an answer consists of, in the order in which it comes; every interface words it its way."""

from typing import Any, Literal, NamedTuple

__all__ = ["ChatPiece", "Plain"]

Plain = dict[str, Any]
"""JSON values."""


class ChatPiece(NamedTuple):
    """What is new of an answer."""

    kind: Literal["text", "thought", "call", "arguments"]
    """A call begins with its name; the arguments behind it are its own."""
    text: str
    place: int = 0
    """Of a call among those of the answer."""
    id: str = ""
    """Of a call."""
