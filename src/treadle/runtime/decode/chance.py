"""Draw tokens for branches, by numbers that follow from the branch and the place in its text.

So a draw depends neither on what runs beside nor on preemptions.
"""

import numpy as np
import numpy.typing as npt

from treadle.core.seed import stream_seed
from treadle.native.elements import uniform

__all__ = ["draw", "draw_distinct", "log_probabilities"]

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
_LEAST = 2.0**-25
"""A draw of 24 bits may be 0, whose logarithm is no number."""


def log_probabilities(logits: Floats) -> Doubles:
    """Return the natural logs of the probabilities [vocab], in float64."""
    shifted = logits.astype(np.float64) - float(logits.max())
    found: Doubles = shifted - np.log(np.exp(shifted).sum())
    return found


def _kept(logits: Floats, temperature: float, top_p: float) -> Doubles:
    """Return the logs [vocab] of what tokens are drawn from; -inf for those left out by top-p."""
    scores = log_probabilities(logits / np.float32(temperature))
    if top_p < 1:
        order = np.argsort(-scores, kind="stable")
        last = int(np.searchsorted(np.cumsum(np.exp(scores[order])), top_p))
        scores[order[last + 1 :]] = -np.inf
    return scores


def draw(logits: Floats, key: int, position: int, temperature: float, top_p: float = 1.0) -> int:
    """Return the token at `position` of the branch `key`; at temperature 0 the most probable one.

    Args:
        logits: [vocab].
        key: Of the branch.
        position: Of the token in its text.
        temperature: Divides the logits.
        top_p: Leaves out what follows the most probable tokens that together reach it.
    """
    if temperature == 0:
        return int(np.argmax(logits))
    chances = np.exp(_kept(logits, temperature, top_p))
    place = np.empty(2, np.float32)
    uniform(key, 2 * position, place)
    sums = np.cumsum(chances)
    # Two draws of 24 bits, or tokens less probable than 2^-24 would never come.
    at = (float(place[0]) + float(place[1]) * 2.0**-24) * sums[-1]
    found = int(np.searchsorted(sums, at, side="right"))
    return min(found, int(np.flatnonzero(chances)[-1]))


def draw_distinct(
    logits: Floats, key: int, position: int, count: int, temperature: float, top_p: float = 1.0
) -> list[int]:
    """Return up to `count` different tokens, drawn one after another without putting back.

    Those are the greatest of log p + Gumbel noise (Kool et al., 2019); at temperature 0 the most
    probable ones, of equals the lower ones first. Fewer come where top-p leaves fewer.
    """
    if temperature == 0:
        scores = logits.astype(np.float64)
    else:
        noise = np.empty(logits.size, np.float32)
        uniform(stream_seed(key, "distinct"), position * logits.size, noise)
        gumbel = -np.log(-np.log(np.maximum(noise.astype(np.float64), _LEAST)))
        scores = _kept(logits, temperature, top_p) + gumbel
    order = np.argsort(-scores, kind="stable")[:count]
    return [int(token) for token in order if scores[token] > -np.inf]
