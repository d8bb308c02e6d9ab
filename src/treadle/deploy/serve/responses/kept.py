"""Responses that may be gone on with: the latest ones, in memory, each for who asked for it."""

from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple

from treadle.deploy.http.asked.responses import Item
from treadle.deploy.http.errors import ApiError
from treadle.deploy.serve.chat.pieces import Plain

__all__ = ["Kept", "KeptResponse"]

_MOST = 1000
_MOST_CHARACTERS = 64 << 20


class KeptResponse(NamedTuple):
    """A response and the conversation that it ended."""

    owner: str
    items: Sequence[Item]
    """All of the conversation, the response's own at the end."""
    asked: Sequence[Item]
    """Those that came with its request."""
    response: Plain
    num_characters: int


class Kept:
    """Holds a bounded number of responses; what was used last stays longest."""

    def __init__(self) -> None:
        self._responses: OrderedDict[str, KeptResponse] = OrderedDict()
        self._num_characters = 0

    def add(self, kept: KeptResponse) -> None:
        """Keep a response, and let the oldest go where they become too many."""
        self._responses[kept.response["id"]] = kept
        self._num_characters += kept.num_characters
        while len(self._responses) > _MOST or (
            self._num_characters > _MOST_CHARACTERS and len(self._responses) > 1
        ):
            _, oldest = self._responses.popitem(last=False)
            self._num_characters -= oldest.num_characters

    def find(self, response_id: str, owner: str, param: str | None = None) -> KeptResponse:
        """Return a response of `owner`.

        Raises:
            ApiError: There is none of that id.
        """
        found = self._responses.get(response_id)
        if found is None or found.owner != owner:
            raise ApiError(
                404 if param is None else 400,
                f"There is no response '{response_id[:80]}' here; it was not stored, or so many "
                f"came after it that it went, or the server began anew: send the conversation "
                f"itself.",
                "previous_response_not_found",
                param,
            )
        self._responses.move_to_end(response_id)
        return found

    def known(self, owner: str) -> dict[str, Item]:
        """Return id -> item of all that was answered to `owner`."""
        return {
            item.id: item
            for kept in self._responses.values()
            if kept.owner == owner
            for item in kept.items
            if item.id is not None
        }

    def drop(self, response_id: str, owner: str) -> None:
        """Forget a response.

        Raises:
            ApiError: There is none of that id.
        """
        self._num_characters -= self.find(response_id, owner).num_characters
        del self._responses[response_id]
