"""Memory for weights: one run of large pages, in which a step reads matrix after matrix.

The processor translates a large page's address once where it would translate 512 small ones, and
what the kernel fetches beyond the end of a matrix is the next one's beginning.
"""

import contextlib
import math
import mmap

import numpy as np

from treadle.core.codec import Array
from treadle.native.pointers import bytes_beyond

__all__ = ["Arena"]

_CHUNK_BYTES = 64 << 20
_LARGE_PAGE_BYTES = 2 << 20
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
            self._chunk, self._taken_bytes = _chunk(max(num_bytes, _CHUNK_BYTES)), 0
        first = self._taken_bytes
        self._taken_bytes += -(-num_bytes // _LINE_BYTES) * _LINE_BYTES
        found: Array = self._chunk[first : first + num_bytes].view(dtype).reshape(shape)
        return found


def _chunk(num_bytes: int) -> "np.typing.NDArray[np.uint8]":
    """Return zeros that begin with a large page; memory is used when it is written to."""
    whole = -(-num_bytes // _LARGE_PAGE_BYTES) * _LARGE_PAGE_BYTES
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS  # shared memory has no large pages by default
    mapped = mmap.mmap(-1, whole + _LARGE_PAGE_BYTES, flags=flags)
    with contextlib.suppress(AttributeError, OSError):  # a system without large pages
        mapped.madvise(mmap.MADV_HUGEPAGE)
    memory = np.frombuffer(mapped, np.uint8)
    first = -bytes_beyond(memory, _LARGE_PAGE_BYTES) % _LARGE_PAGE_BYTES
    return memory[first : first + whole]
