"""Texts for drafters; not a test itself."""

from collections.abc import Sequence

from treadle.runtime.draft.base import Drafting, DraftTarget
from treadle.runtime.draft.proposal import Draft, DraftText
from treadle.runtime.draft.tables import DRAFTERS

VOCAB = 40


def opened(name: str, **settings: object) -> Drafting:
    drafting = DRAFTERS.resolve({"method": name, **settings}).open(DraftTarget(VOCAB))
    assert drafting is not None
    return drafting


def ask(
    drafting: Drafting, tokens: Sequence[int], key: str = "a", group: str = "", most: int = 16
) -> Draft:
    (draft,) = drafting.propose([DraftText(key, list(tokens), 1, group)], most)
    assert len(draft.tokens) == len(draft.parents) == len(draft.chances) <= most
    assert all(-1 <= parent < place for place, parent in enumerate(draft.parents))
    assert len(set(zip(draft.parents, draft.tokens, strict=True))) == len(draft.tokens)
    assert all(0 < chance <= 1 for chance in draft.chances)
    return draft


def finish(drafting: Drafting, tokens: Sequence[int], key: str = "a", group: str = "") -> None:
    drafting.finish(DraftText(key, list(tokens), 1, group))


def admit_all(
    drafts: Sequence[Draft], reached: object, seconds: Sequence[float], least_gain: float
) -> list[list[int]]:
    """Let all drafts run that find a place, whether they pay or not; see `pace.admitted`."""
    left, found = len(seconds) - 1, []
    for draft in drafts:
        found.append(list(range(min(left, len(draft.tokens)))))
        left -= len(found[-1])
    return found
