"""Pointers for C that keep what they point to: whoever holds one holds the array."""

import ctypes
from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

__all__ = ["pointer", "pointers", "struct"]

S = TypeVar("S", bound=ctypes.Structure)
Array = npt.NDArray[np.generic]


def pointer(array: Array, first: int = 0) -> ctypes.c_void_p:
    """Return a pointer to element `first` of an array, which lives as long as it does."""
    found = ctypes.c_void_p(array.ctypes.data + first * array.itemsize)
    found._owner = array  # type: ignore[attr-defined]  # ctypes' objects take attributes
    return found


def pointers(arrays: Sequence[Array]) -> "ctypes.Array[ctypes.c_void_p]":
    """Return an array of pointers to arrays, which live as long as it does."""
    found = (ctypes.c_void_p * len(arrays))(*map(pointer, arrays))
    found._owners = arrays  # type: ignore[attr-defined]  # ctypes' objects take attributes
    return found


def struct(kind: type[S], *values: Any) -> S:  # Any: what its fields take, or arrays
    """Return a struct in which arrays are pointers; they live as long as it does."""
    addresses = [v.ctypes.data if isinstance(v, np.ndarray) else v for v in values]
    found = kind(*addresses)
    found._owners = values
    return found
