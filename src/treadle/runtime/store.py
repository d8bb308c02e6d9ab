"""The pool's arrays for an executor: in main memory, or on its CUDA device (experimental)."""

from typing import cast

from treadle.core.errors import CapacityError
from treadle.core.hardware import available_memory_bytes
from treadle.runtime.cache.device import DeviceKeyValues
from treadle.runtime.cache.forms import KvDtype, num_pages_for, page_bytes
from treadle.runtime.cache.pages import KeyValues
from treadle.runtime.executor import Executor, ModelShape
from treadle.runtime.probe import Observable, key_factors
from treadle.runtime.settings import EngineSettings
from treadle.runtime.typed import whole

__all__ = ["filled_store", "make_store"]


def make_store(
    shape: ModelShape,
    cache_bytes: int | None,
    page_size: int,
    dtype: KvDtype,
    max_num_seqs: int,
    device: str,
) -> KeyValues:
    """Return the arrays for a cache of `cache_bytes`.

    Unless given, these are what `max_num_seqs` texts of full length take, but at most a quarter of
    the free main memory.

    Raises:
        CapacityError: They do not hold one page, or are more than is free.
        SettingsError: The size of the cache or of a page, or the dtype, is refused.
    """
    one = page_bytes(shape.kv_heads, shape.head_dim, page_size, dtype)
    if cache_bytes is None:
        most = max_num_seqs * -(-shape.max_positions // page_size) * one
        cache_bytes = min(most, max(one, available_memory_bytes() // 4))
    num_pages = num_pages_for(whole("cache_bytes", cache_bytes, 0), one)
    if device == "cpu":
        free = available_memory_bytes()
        if cache_bytes > free:
            raise CapacityError(
                f"cache_bytes={cache_bytes} is more than the {free} bytes of memory that are free "
                f"here; lower it, or leave it out (then it is at most a quarter of them)."
            )
        try:
            return KeyValues(shape.kv_heads, shape.head_dim, num_pages, page_size, dtype)
        except (OSError, MemoryError) as error:  # a limit of the process, not of the machine
            raise CapacityError(
                f"The system refuses {cache_bytes} bytes for the cache ({error}); lower "
                f"cache_bytes, or keep less of it (keep='snapkv', keep_budget=0.25)."
            ) from error
    return DeviceKeyValues(shape.kv_heads, shape.head_dim, num_pages, page_size, dtype, device)


def filled_store(executor: Executor, settings: EngineSettings, max_num_seqs: int) -> KeyValues:
    """Return the arrays that settings ask for, with what keys of 4 bits are divided by.

    Raises:
        CapacityError, SettingsError: See `make_store`.
    """
    store = make_store(
        *(executor.shape, settings.cache_bytes, settings.page_size, settings.kv_dtype),
        *(max_num_seqs, settings.device),
    )
    if store.dtype == "int4" and not executor.is_timed:
        store.key_factors = key_factors(cast(Observable, executor))
    return store
