"""Points on a sphere: the way between two of them."""

import numpy as np
import numpy.typing as npt

from treadle.combine.merge.maths.gram import Doubles

__all__ = ["between"]


def between(
    t: float, cosine: Doubles, is_straight: npt.NDArray[np.bool_]
) -> tuple[Doubles, Doubles]:
    """Return the coefficients of the two ends of an arc at its fraction t.

    They are sin((1-t)θ) / sin θ and sin(tθ) / sin θ; where the arc is straight, 1-t and t.

    Args:
        t: 0 is the first end, 1 the second.
        cosine: Cosines of the angles θ between the ends.
        is_straight: Where the ends are parallel or opposite.
    """
    angle = np.arccos(np.where(is_straight, 0.0, cosine))
    first = np.where(is_straight, 1.0 - t, np.sin((1.0 - t) * angle) / np.sin(angle))
    second = np.where(is_straight, t, np.sin(t * angle) / np.sin(angle))
    return first, second
