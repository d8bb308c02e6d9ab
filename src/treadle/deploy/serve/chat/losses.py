"""Whether a template showed all that a conversation says; some drop messages without a word."""

import json
import re
from collections.abc import Iterator, Sequence

from treadle.deploy.http.asked import Message
from treadle.deploy.serve.chat.arguments import arguments_of
from treadle.deploy.serve.chat.thoughts import END

__all__ = ["nothing_is_lost"]

_RUN = re.compile(r"\w[\w ]*\w|\w")
"""What templates neither trim nor escape."""
_MOST = 40
_LOOKED_AT = 4000
"""Characters of a message in which a run is looked for."""


def nothing_is_lost(messages: Sequence[Message], text: str) -> bool:
    """Return whether a piece of every message stands in a text, and of every call.

    Thoughts of earlier answers are left out on purpose by templates that know them.
    """
    at = 0
    for message in messages:
        for piece in _pieces(message):
            place = text.find(piece, at)
            if place < 0:
                place = text.find(piece)
                if place < 0:
                    return False
            elif message.role not in ("system", "developer"):  # these may stand anywhere
                at = place
    return True


def _pieces(message: Message) -> Iterator[str]:
    said = message.text.rpartition(END)[2] if message.role == "assistant" else message.text
    parts = [said]
    for call in message.tool_calls or []:
        arguments = arguments_of(call.function.arguments)
        parts += [call.function.name, json.dumps(arguments, ensure_ascii=False)]
    for part in parts:
        runs = _RUN.findall(part[:_LOOKED_AT])
        if runs:
            yield max(runs, key=len)[:_MOST].rstrip()
