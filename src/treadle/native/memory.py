"""Memory in large pages, for what a step reads from end to end.

The processor translates a large page's address once where it would translate 512 small ones, and a
vector that begins with a line of the cache never needs two.
"""

import contextlib
import math
import mmap

import numpy as np

from treadle.core.codec import Array
from treadle.native.pointers import bytes_beyond

__all__ = ["zeros"]

_LARGE_PAGE_BYTES = 2 << 20


def zeros(shape: tuple[int, ...], dtype: np.typing.DTypeLike) -> Array:
    """Return an array of zeros that begins with a large page, as far as the system has them.

    It takes memory page by page as it is written to.
    """
    num_bytes = math.prod(shape) * np.dtype(dtype).itemsize
    whole = -(-num_bytes // _LARGE_PAGE_BYTES) * _LARGE_PAGE_BYTES
    mapped = mmap.mmap(-1, whole + _LARGE_PAGE_BYTES)
    with contextlib.suppress(AttributeError, OSError):  # a system without large pages
        mapped.madvise(mmap.MADV_HUGEPAGE)
    memory = np.frombuffer(mapped, np.uint8)
    first = -bytes_beyond(memory, _LARGE_PAGE_BYTES) % _LARGE_PAGE_BYTES
    found: Array = memory[first : first + num_bytes].view(dtype).reshape(shape)
    return found
