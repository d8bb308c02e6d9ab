"""The trees of a batch: who takes the results of which branch."""

from treadle.runtime.executor import Floats
from treadle.runtime.request import Request
from treadle.runtime.schedule.batch import Batch
from treadle.runtime.schedule.rows import RowChunk
from treadle.runtime.schedule.search import TreeSearch

__all__ = ["TreeSearches"]


class TreeSearches:
    """The trees of a batch."""

    def __init__(self, batch: Batch) -> None:
        self._batch = batch
        self._open: list[TreeSearch] = []

    def begin(self, search: TreeSearch) -> None:
        """Let a tree's controller choose for it from now on."""
        self._open.append(search)

    def take(self, chunk: RowChunk, logits: Floats) -> bool:
        """Take the results of a chunk if its request is a branch, and say whether it is."""
        for search in self._open:
            leaf = search.leaf_of(chunk.request.id)
            if leaf is not None:
                search.note(leaf, chunk, logits)
                return True
        return False

    def ids_of(self, request_id: str) -> list[str]:
        """Return the requests that end with an id: all of a tree, that of ID/NODE, or itself."""
        for search in self._open:
            if request_id == search.prompt.id:
                return [request.id for request in search.requests]
        return [self.id_of(request_id)]

    def id_of(self, request_id: str) -> str:
        """Return the request of a branch that is named ID/NODE; others bear their own names."""
        found = (search.id_of(request_id) for search in self._open)
        return next((one for one in found if one is not None), request_id)

    def has(self, request: Request) -> bool:
        """Say whether a request is a branch."""
        return any(search.leaf_of(request.id) is not None for search in self._open)

    def decide(self) -> None:
        """Let every tree go on that can."""
        for search in list(self._open):
            search.decide()

    def close(self, search: TreeSearch) -> None:
        """End a tree and forget it."""
        if search in self._open:
            self._open.remove(search)
        search.close()
