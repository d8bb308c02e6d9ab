"""Models in the order in which it makes sense to ask them."""

import numpy as np
import numpy.typing as npt

from treadle.core.errors import DataError

__all__ = ["ladder"]

Doubles = npt.NDArray[np.float64]


def ladder(cost: Doubles, scores: Doubles) -> list[int]:
    """Return models from the cheapest on, each better than all before it.

    Raises:
        DataError: It has one rung.
    """
    found: list[int] = []
    for place in np.lexsort((-scores, cost)):
        if not found or scores[place] > scores[found[-1]]:
            found.append(int(place))
    if len(found) < 2:
        raise DataError(
            "The cheapest model is the best one, too, so that there is nobody to hand on to; serve "
            "it alone, or train another router."
        )
    return found
