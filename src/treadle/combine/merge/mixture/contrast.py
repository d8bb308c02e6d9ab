"""Directions from prompts: the mean of what an expert is for, minus that of what it is not for."""

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np

from treadle.combine.merge.mixture.base import PromptStates
from treadle.combine.merge.site import Floats

__all__ = ["Negatives", "contrasted", "unit"]

Negatives = Literal["others", "none"]
"""What an expert is not for, where its prompts do not say: the other experts' prompts, or nothing
in particular."""


def contrasted(
    texts: Sequence[PromptStates],
    negatives: Negatives,
    pooled: Callable[[Sequence[Floats]], Floats],
) -> Floats:
    """Return one row of length 1 for each expert, [experts, hidden].

    Args:
        texts: Of each expert.
        negatives: Of experts that have none of their own.
        pooled: Return the one vector [hidden] that several texts stand for.
    """
    rows = []
    for place, own in enumerate(texts):
        row = pooled(own.positive).astype(np.float64)
        others = [text for n, one in enumerate(texts) if n != place for text in one.positive]
        against = own.negative or (others if negatives == "others" else [])
        if against:
            row = row - pooled(against)
        rows.append(unit(row.astype(np.float32)))
    return np.stack(rows)


def unit(row: Floats) -> Floats:
    """Return a vector at length 1; one of zeros stays."""
    length = float(np.sqrt(np.square(row, dtype=np.float64).sum()))
    found: Floats = row / np.float32(length or 1.0)
    return found
