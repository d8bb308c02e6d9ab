"""How the cache stores numbers, and the bytes that this takes."""

from collections.abc import Sequence
from typing import Literal

import numpy as np

from treadle.core.errors import CapacityError, SettingsError
from treadle.core.registry import near
from treadle.runtime.typed import text, whole

__all__ = [
    "KV_DTYPES",
    "MIDDLE",
    "KvDtype",
    "columns_of",
    "has_codes",
    "num_pages_for",
    "page_bytes",
    "require_dtype",
    "require_page_size",
]

KvDtype = Literal["fp32", "fp16", "int8", "int4"]
KV_DTYPES: dict[str, type[np.generic]] = {
    "fp32": np.float32,
    "fp16": np.float16,
    "int8": np.int8,
    "int4": np.uint8,
}
MIDDLE = 7.5
"""Codes of 4 bits stand for (code - MIDDLE) * scale."""


def require_page_size(page_size: int) -> int:
    """Return `page_size` if pages can have it.

    Raises:
        SettingsError: They cannot.
    """
    return whole("page_size", page_size, 1)


def require_dtype(dtype: str) -> KvDtype:
    """Return `dtype` if pages can be stored in it.

    Raises:
        SettingsError: They cannot.
    """
    if text("kv_dtype", dtype) not in KV_DTYPES:
        raise SettingsError(f"No kv_dtype '{dtype}'. {near(dtype, KV_DTYPES)}")
    return dtype  # type: ignore[return-value]


def has_codes(dtype: str) -> bool:
    """Whether keys and values are stored as codes, with a scale for each vector."""
    return dtype in ("int8", "int4")


def columns_of(head_dim: int, dtype: str) -> int:
    """Return how many numbers of its type a vector of `head_dim` numbers takes.

    Raises:
        SettingsError: They fill no whole bytes.
    """
    if dtype != "int4":
        return head_dim
    if head_dim % 2:
        raise SettingsError(
            f"kv_dtype='int4' stores two numbers in a byte, and this model's heads have {head_dim} "
            f"each; use int8."
        )
    return head_dim // 2


def page_bytes(kv_heads: Sequence[int], head_dim: int, page_size: int, dtype: KvDtype) -> int:
    """Return the bytes of one page over all layers, with positions and scales."""
    width = np.dtype(KV_DTYPES[require_dtype(dtype)]).itemsize
    page_size = require_page_size(page_size)
    per_slot = 2 * columns_of(head_dim, dtype) * width + 4 + (8 if has_codes(dtype) else 0)
    return sum(kv_heads) * page_size * per_slot


def num_pages_for(cache_bytes: int, one_page_bytes: int) -> int:
    """Return how many pages `cache_bytes` hold.

    Raises:
        CapacityError: Not even one.
    """
    if cache_bytes < one_page_bytes:
        raise CapacityError(
            f"cache_bytes={cache_bytes} holds no page; one takes {one_page_bytes} bytes. Raise "
            f"cache_bytes."
        )
    return cache_bytes // one_page_bytes
