"""How many tokens a costly drafter is asked for, before anything is known of them."""

from collections.abc import Callable, Sequence

import numpy as np

__all__ = ["Depth"]

_PRIOR = 0.2
"""Of a step, what one drafted token takes until it was measured."""
_FADING = 0.15
_LONGEST_REST = 64


class Depth:
    """Measures what drafting takes, and chooses the number of tokens that pay."""

    def __init__(self) -> None:
        self._token_seconds: float | None = None
        self._read_seconds: float | None = None
        self._rest = self._last_rest = 0

    def observe(self, num_unread: int, num_texts: int, depth: int, seconds: float) -> None:
        """Learn what a draft of so many tokens took, with so many tokens read before it."""
        if depth == 0 or seconds <= 0:
            return
        own = depth * (self._token_seconds or 0.0)
        if num_unread > 8 * num_texts:
            each = max(0.0, seconds - own) / num_unread
            self._read_seconds = _moved(self._read_seconds, each)
        else:
            self._token_seconds = _moved(self._token_seconds, seconds / depth)

    def choose(
        self,
        num_texts: int,
        most: int,
        share: float,
        seconds: Callable[[Sequence[int]], list[float]],
    ) -> tuple[int, float]:
        """Return how many tokens to draft for each text, and how many times faster that is.

        Args:
            num_texts: Of the step.
            most: Tokens at most.
            share: Of drafted tokens that are right, where the one before is.
            seconds: Returns the seconds of steps by their rows.
        """
        steps = np.asarray(seconds([num_texts * (1 + depth) for depth in range(most + 1)]))
        each = _PRIOR * steps[0] if self._token_seconds is None else self._token_seconds
        depths = np.arange(most + 1)
        gains = np.cumsum(min(share, 0.98) ** depths)
        rates = gains / (steps + depths * each)
        best = int(rates.argmax())
        if best and rates[best] > 1.02 * rates[0]:
            self._last_rest = self._rest = 0
            return best, float(rates[best] / rates[0])
        self._rest -= 1
        if self._rest >= 0:
            return 0, 1.0
        self._last_rest = min(_LONGEST_REST, 2 * self._last_rest + 1)
        self._rest = self._last_rest
        return min(1, most), 1.0

    def pays(self, num_unread: int, num_left: int, gain: float, token_seconds: float) -> bool:
        """Say whether reading a text is worth what its drafts will save.

        Args:
            num_unread: Tokens to read.
            num_left: Tokens that the answer may still have.
            gain: How many times faster they come.
            token_seconds: For each without drafts.
        """
        if num_unread <= 64 or self._read_seconds is None:
            return True
        return num_unread * self._read_seconds < num_left * token_seconds * (1 - 1 / gain)


def _moved(mean: float | None, new: float) -> float:
    return new if mean is None else mean + _FADING * (new - mean)
