"""Parts of drafts: chains, starts, what a form allows."""

from collections.abc import Callable, Sequence

from treadle.runtime.draft.pace import cut
from treadle.runtime.draft.proposal import Draft

__all__ = ["allowed_part", "is_chain", "likeliest_path", "start"]


def is_chain(draft: Draft) -> bool:
    """Say whether each token follows the one before it."""
    return all(parent == place - 1 for place, parent in enumerate(draft.parents))


def start(draft: Draft, count: int) -> Draft:
    """Return a draft's first tokens."""
    return draft if len(draft.tokens) <= count else cut(draft, range(count))


def likeliest_path(draft: Draft) -> Draft:
    """Return a path through a draft that takes the likeliest token each time."""
    if is_chain(draft):
        return draft
    best: dict[int, int] = {}
    for place, parent in enumerate(draft.parents):
        if parent not in best or draft.chances[place] > draft.chances[best[parent]]:
            best[parent] = place
    path: list[int] = []
    while (path[-1] if path else -1) in best:
        path.append(best[path[-1] if path else -1])
    return cut(draft, path)


def allowed_part(draft: Draft, count_valid: Callable[[Sequence[int]], int]) -> Draft:
    """Return the part of a draft whose paths a form allows.

    Args:
        draft: All that was proposed.
        count_valid: Returns how many tokens of a run may follow the answer.
    """
    if is_chain(draft):
        return start(draft, count_valid(draft.tokens))
    paths: dict[int, list[int]] = {-1: []}
    for place, (token, parent) in enumerate(zip(draft.tokens, draft.parents, strict=True)):
        if parent in paths:
            path = [*paths[parent], token]
            if count_valid(path) == len(path):
                paths[place] = path
    return cut(draft, [place for place in paths if place >= 0])
