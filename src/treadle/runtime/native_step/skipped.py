"""A native step that leaves blocks of another one out, and shares its weights."""

import copy
import ctypes
from collections.abc import Sequence

from treadle.core.errors import SettingsError
from treadle.native.pointers import structs
from treadle.runtime.native_step.adapters import AdapterPlaces, NativeAdapters
from treadle.runtime.native_step.llama import LlamaStep
from treadle.runtime.native_step.sharing import NativeSharing
from treadle.runtime.native_step.structs import ROLES, Cache, Layer, Model

__all__ = ["without_blocks"]


def without_blocks(step: LlamaStep, blocks: Sequence[int]) -> LlamaStep:
    """Return the step of a model without some of its decoder blocks; nothing is copied.

    Raises:
        SettingsError: It has no such blocks, or none would be left.
    """
    count = step.shape.num_layers
    wrong = [block for block in blocks if not 0 <= block < count]
    if wrong or len(set(blocks)) >= count:
        asked = f"block {wrong[0]}" if wrong else "all blocks"
        raise SettingsError(
            f"Found {asked} to be skipped of a model with {count}; give some of 0 to {count - 1}."
        )
    kept = [block for block in range(count) if block not in blocks]
    found = copy.copy(step)
    found._whole = step  # type: ignore[attr-defined]  # owns what the structs point to
    found._layers = structs(Layer, [step._layers[block] for block in kept])
    first = 0
    for layer in found._layers:
        layer.heads.first = first
        first += layer.heads.kv_heads
    found._caches, found._arena, found._pool = (
        structs(Cache, [Cache() for _ in kept]),
        Cache(),
        None,
    )
    found._model = Model.from_buffer_copy(step._model)
    found._model.layers, found._model.caches = found._layers, found._caches
    found._model.num_layers = len(kept)
    found.shape = step.shape._replace(
        kv_heads=tuple(step.shape.kv_heads[block] for block in kept),
        windows=tuple(step.shape.windows[block] for block in kept),
        kv_windows=None,
    )
    found._adapters = NativeAdapters(AdapterPlaces(ROLES))
    threads = step.num_threads
    found._step = ctypes.c_void_p(step._kernel.step_open(ctypes.c_int32(threads)))
    heads = [layer.heads for layer in found._layers]
    found.sharing = NativeSharing(step._kernel, step._kernel.step_lanes(), heads, threads)
    return found
