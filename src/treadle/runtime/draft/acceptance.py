"""How often drafts are right: by where they come from, and for each text."""

from collections.abc import Sequence

from treadle.runtime.draft.proposal import Draft

__all__ = ["Acceptance", "TextAcceptance"]

_MOST_TRIALS = 150.0
"""Trials of a kind that count; more of them fade."""
_TRUST = 6.0
"""Trials after which what was observed counts as much as what was expected."""
_TEXT_TRUST, _TEXT_MEMORY = 4.0, 0.95
_HALF_LIFE = 500.0
"""Observations after which half is forgotten of a kind that was not tried since."""
_HIGHEST = 0.985
_LEAST_REACHED = 0.02
"""A row takes a greater part of a step everywhere."""

Kind = tuple[str, int, int, int]
"""Source, and by size: matched tokens, depth and the drafter's own chance."""


class TextAcceptance:
    """How much more or less often than expected drafts are right in one text."""

    def __init__(self) -> None:
        self._right = self._expected = _TEXT_TRUST

    @property
    def ratio(self) -> float:
        """By which expectations are multiplied."""
        return max(0.1, min(1.5, self._right / self._expected))

    def observe(self, expected: float, is_right: bool) -> None:
        """Learn of a trial: the first tokens of the prior count for ever, the rest fades."""
        self._right = _TEXT_TRUST + (self._right - _TEXT_TRUST) * _TEXT_MEMORY + is_right
        self._expected = _TEXT_TRUST + (self._expected - _TEXT_TRUST) * _TEXT_MEMORY + expected


class Acceptance:
    """Shares of drafts that were right, where the token before each was."""

    def __init__(self) -> None:
        self._kinds: dict[Kind, list[float]] = {}
        """Kind -> right ones, trials, and when the last one was."""
        self._sources: dict[str, list[float]] = {}
        """Source -> right ones, the drafter's own chances of as many, and trials."""
        self._tick = 0

    def reached(self, draft: Draft, text: TextAcceptance) -> list[float]:
        """Return how likely each token of a draft is chosen, with all before it.

        Where that is too little to pay for a row in any step, it is 0.
        """
        ratio, matched = text.ratio, _size(draft.matched, 63)
        depths: list[int] = []
        found: list[float] = []
        for parent, own in zip(draft.parents, draft.chances, strict=True):
            above, depth = (found[parent], depths[parent] + 1) if parent >= 0 else (1.0, 0)
            depths.append(depth)
            if above > 0:
                kind = (draft.source, matched, _size(depth, 15), int(own * 4))
                above *= min(_HIGHEST, ratio * self._expected(kind, own))
            found.append(above if above > _LEAST_REACHED else 0.0)
        return found

    def _expected(self, kind: Kind, own: float) -> float:
        right, claimed, _ = self._sources.get(kind[0], (0.0, 0.0, 0.0))
        prior = own * min(1.2, (right + 3.0) / (claimed + 5.0))
        seen, trials, last = self._kinds.get(kind, (0.0, 0.0, 0.0))
        fading = float(0.5 ** ((self._tick - last) / _HALF_LIFE))
        return (seen * fading + prior * _TRUST) / (trials * fading + _TRUST)

    def share(self, source: str) -> float:
        """Return which part of a source's tokens was right, where the one before was."""
        right, _, trials = self._sources.get(source, (0.0, 0.0, 0.0))
        return (right + 3.0) / (trials + 4.0)

    def observe(
        self, draft: Draft, text: TextAcceptance, chosen: Sequence[int], place: int = -1
    ) -> int | None:
        """Learn which tokens came where a draft was proposed, whether it ran or not.

        Args:
            draft: What was proposed.
            text: Of the text.
            chosen: The tokens that came.
            place: Of the draft's token behind which they came; -1: of the text's last one.

        Returns:
            The place of the last one, or None where the draft ended or was wrong.
        """
        matched, depth = _size(draft.matched, 63), _depth(draft, place)
        for token in chosen:
            found = None
            for own, parent in enumerate(draft.parents):
                if parent == place:
                    chance, is_right = draft.chances[own], draft.tokens[own] == token
                    kind = (draft.source, matched, _size(depth, 15), int(chance * 4))
                    self._note(kind, chance, is_right, text)
                    found = own if is_right else found
            if found is None:
                return None
            place, depth = found, depth + 1
        return place if place in draft.parents else None

    def _note(self, kind: Kind, own: float, is_right: bool, text: TextAcceptance) -> None:
        text.observe(min(_HIGHEST, self._expected(kind, own)), is_right)
        self._tick += 1
        cell = self._kinds.setdefault(kind, [0.0, 0.0, 0.0])
        fading = 0.5 ** ((self._tick - cell[2]) / _HALF_LIFE)
        fading *= 1 if cell[1] < _MOST_TRIALS else 1 - 1 / _MOST_TRIALS
        cell[:] = [cell[0] * fading + is_right, cell[1] * fading + 1, self._tick]
        source = self._sources.setdefault(kind[0], [0.0, 0.0, 0.0])
        fading = 1 if source[2] < _MOST_TRIALS else 1 - 1 / _MOST_TRIALS
        source[:] = [
            old * fading + new for old, new in zip(source, (is_right, own, 1), strict=True)
        ]


def _size(count: int, most: int) -> int:
    """Return how many binary digits a count has: such counts are alike."""
    return min(count, most).bit_length()


def _depth(draft: Draft, place: int) -> int:
    """Return how many tokens of a draft lead to those behind `place`."""
    depth = 0
    while place >= 0:
        place, depth = draft.parents[place], depth + 1
    return depth
