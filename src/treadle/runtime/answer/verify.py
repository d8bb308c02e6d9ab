"""Which drafted tokens stay so that an answer has the model's law: by rejection, and by blocks."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

__all__ = ["Verified", "by_block", "by_rejection"]

Law = npt.NDArray[np.float64]
Verified = tuple[int, Law]
"""How many tokens stay, and the law of the one that follows."""


def by_rejection(
    tokens: Sequence[int], drafted: Sequence[Law], laws: Sequence[Law], draws: Sequence[float]
) -> Verified:
    """Return what stays if each token is accepted on its own (Leviathan et al., theorem 1).

    Args:
        tokens: What was drafted.
        drafted: The laws q that they were drawn from.
        laws: The laws p of the model in their places, and behind the last one.
        draws: A random number for each.
    """
    for count, (token, q, p, draw) in enumerate(
        zip(tokens, drafted, laws[:-1], draws, strict=True)
    ):
        if draw * q[token] >= p[token]:
            return count, _remainder(p, q, 1.0)
    return len(tokens), laws[-1]


def by_block(
    tokens: Sequence[int], drafted: Sequence[Law], laws: Sequence[Law], draws: Sequence[float]
) -> Verified:
    """Return what stays if the tokens are verified together; arguments as for `by_rejection`.

    Algorithm 2 of "Block Verification Accelerates Speculative Decoding" (Sun et al., 2024):
    P_0 = 1, P_i = min(1, P_(i-1) p(x_i) / q(x_i)); S_i = sum_x max(0, P_i p(x|x_<=i) - q(x|x_<=i));
    h_i = S_i / (S_i + 1 - P_i), h_g = P_g; the largest i stays whose draw is at most h_i.
    """
    reached = [1.0]
    for token, q, p in zip(tokens, drafted, laws[:-1], strict=True):
        reached.append(min(1.0, reached[-1] * p[token] / q[token]))
    last = len(tokens)
    for count in range(last, 0, -1):
        if count == last:
            chance = reached[count]
        else:
            rest = float(np.maximum(0, reached[count] * laws[count] - drafted[count]).sum())
            missing = rest + 1 - reached[count]
            chance = rest / missing if missing > 0 else 1.0
        if draws[count - 1] < chance:
            break
    else:
        count = 0
    if count == last:
        return count, laws[-1]
    return count, _remainder(laws[count], drafted[count], reached[count])


def _remainder(p: Law, q: Law, reached: float) -> Law:
    """Return max(0, reached * p - q), normalised; p where rounding leaves nothing."""
    rest = np.maximum(0, reached * p - q)
    total = rest.sum()
    found: Law = rest / total if total > 0 else p
    return found
