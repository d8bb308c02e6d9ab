"""Memory for weights: one run of large pages, in which a step reads matrix after matrix.

What the kernel fetches beyond the end of a matrix is the next one's beginning.
"""

import math

import numpy as np

from treadle.core.codec import Array
from treadle.native.memory import zeros

__all__ = ["Arena"]

_CHUNK_BYTES = 64 << 20
_LINE_BYTES = 64


class Arena:
    """Hands out arrays side by side; they live on when it is gone."""

    def __init__(self) -> None:
        self._chunk = np.empty(0, np.uint8)
        self._taken_bytes = 0

    def take(self, shape: tuple[int, ...], dtype: np.typing.DTypeLike) -> Array:
        """Return an array of zeros whose memory begins with a line of the cache."""
        num_bytes = math.prod(shape) * np.dtype(dtype).itemsize
        if self._taken_bytes + num_bytes > len(self._chunk):
            self._chunk, self._taken_bytes = zeros((max(num_bytes, _CHUNK_BYTES),), np.uint8), 0
        first = self._taken_bytes
        self._taken_bytes += -(-num_bytes // _LINE_BYTES) * _LINE_BYTES
        found: Array = self._chunk[first : first + num_bytes].view(dtype).reshape(shape)
        return found
