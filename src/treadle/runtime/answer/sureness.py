"""How sure a model was of its answer: what a cascade goes by."""

from collections.abc import Sequence

import numpy as np

__all__ = ["sureness"]


def sureness(logprobs: Sequence[float]) -> float:
    """Return the mean probability of an answer's tokens (0..1), in float64; 0 of an empty one.

    Args:
        logprobs: Of the chosen tokens, in nats, before penalties and filters.
    """
    if not len(logprobs):
        return 0.0
    return float(np.exp(np.asarray(logprobs, np.float64)).mean())
