"""Grids in loops, for the quantizers' tests; not a test itself."""

import numpy as np
import torch
from hypothesis import strategies as st

from treadle.shrink.quantize.base import Scheme


def naive_grid(weight, scheme):
    """Return scale and zero point of every weight [out, in], in loops from the equation."""
    rows, columns = weight.shape
    size = scheme.group_columns or columns
    scales, zeros = np.empty(weight.shape), np.empty(weight.shape)
    top, middle = 2**scheme.num_bits - 1, 2 ** (scheme.num_bits - 1)
    for row in range(rows):
        for first in range(0, columns, size):
            own = weight[row, first : first + size]
            if scheme.is_symmetric:
                scale, zero = np.float32(np.abs(own).max() / np.float32(middle - 1)), middle
            else:
                low, high = min(float(own.min()), 0.0), max(float(own.max()), 0.0)
                scale = np.float32(np.float32(high - low) / np.float32(top))
                zero = None
            scale = scale if scale > 0 else np.float32(1)
            if zero is None:
                zero = min(max(round(float(np.float32(-low) / scale)), 0), top)
            scales[row, first : first + size] = scale
            zeros[row, first : first + size] = zero
    return scales, zeros


@st.composite
def matrices(draw):
    """Draw a matrix and a scheme that divides it."""
    rows, groups = draw(st.integers(1, 4)), draw(st.integers(1, 3))
    size = draw(st.sampled_from([2, 4, 8]))
    seed = draw(st.integers(0, 1000))
    weight = torch.randn(rows, groups * size, generator=torch.Generator().manual_seed(seed))
    has_zeros = draw(st.booleans())
    weight = weight * (weight.abs() > 0.5) if has_zeros else weight
    by_row = draw(st.booleans())
    scheme = Scheme(
        draw(st.sampled_from([4, 8])), 0 if by_row else size, draw(st.booleans()), "F32"
    )
    return weight, scheme
