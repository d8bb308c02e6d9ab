"""Draw tokens for branches, by numbers that follow from the branch and the place in its text.

So a draw depends neither on what runs beside nor on preemptions.
"""

import numpy as np
import numpy.typing as npt

from treadle.core.seed import stream_seed
from treadle.native.elements import uniform

__all__ = ["draw", "draw_distinct", "log_normaliser"]

Floats = npt.NDArray[np.float32]
_LEAST = 2.0**-25
"""A draw of 24 bits may be 0, whose logarithm is no number."""


def log_normaliser(logits: Floats) -> float:
    """Return what to take from logits [vocab] for the natural logs of probabilities.

    Exponentials are in float32, their sum in float64.
    """
    most = logits.max()
    return float(most) + float(np.log(np.exp(logits - most).sum(dtype=np.float64)))


def _kept(logits: Floats, temperature: float, top_p: float) -> Floats:
    """Return the unnormalised logs [vocab] of what tokens are drawn from.

    The greatest is 0; those left out by top-p are -inf.
    """
    scores: Floats = (logits - logits.max()) / np.float32(temperature)
    if top_p < 1:
        order = np.argsort(-scores, kind="stable")
        sums = np.cumsum(np.exp(scores[order]), dtype=np.float64)
        last = int(np.searchsorted(sums, top_p * sums[-1]))
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
    sums = np.cumsum(chances, dtype=np.float64)
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
    scores: npt.NDArray[np.floating] = logits
    if temperature > 0:
        noise = np.empty(logits.size, np.float32)
        uniform(stream_seed(key, "distinct"), position * logits.size, noise)
        gumbel = -np.log(-np.log(np.maximum(noise.astype(np.float64), _LEAST)))
        scores = _kept(logits, temperature, top_p) + gumbel
    order = np.argsort(-scores, kind="stable")[:count]
    return [int(token) for token in order if scores[token] > -np.inf]
