"""LoRA in the native step: an adapter's factors as C reads them, and the rows that use them."""

import ctypes
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from treadle.model import facts
from treadle.model.adapters import Adapter
from treadle.native.pointers import pointers
from treadle.native.pointers import structs as structs_of
from treadle.runtime.executor import StepRows
from treadle.runtime.linear.lora import LowRank, low_ranks
from treadle.runtime.native_step import structs

__all__ = ["LoraCall", "NativeAdapters"]

_LLAMA = facts.ARCHITECTURES["llama"]
"""peft names modules as transformers does, and there all decoders of the native step agree."""


class _Packed(NamedTuple):
    """One adapter: a struct for every role of every layer."""

    structs: "ctypes.Array[structs.LowRank]"
    max_rank: int


class LoraCall(NamedTuple):
    """The adapters of one step, as the last fields of `structs.Rows` take them."""

    adapters: "ctypes.Array[ctypes.c_void_p] | None"
    runs: "ctypes.Array[structs.Run] | None"
    num_runs: int
    max_rank: int


class NativeAdapters:
    """The adapters of a native step by slot.

    Args:
        layers: The structs of the step's layers.
        roles: Names of a layer's matrices, in the order of the targets in step_lora.h.
    """

    def __init__(self, layers: Iterable[structs.Layer], roles: Sequence[str]) -> None:
        self._places: dict[str, tuple[int, tuple[int, int]]] = {}
        tensors = {fact.role: fact.tensor for fact in _LLAMA.linears}
        for number, layer in enumerate(layers):
            for place, role in enumerate(roles):
                matrix = getattr(layer, role)
                name = _LLAMA.blocks.format(layer=number) + tensors[role]
                shape = (matrix.rows, matrix.cols)
                self._places[name] = (number * len(roles) + place, shape)
        self._packed: dict[int, _Packed] = {}

    def add(self, slot: int, adapter: Adapter) -> None:
        """Take an adapter in; see `low_ranks` for what is refused."""
        changes = low_ranks(adapter, {name: shape for name, (_, shape) in self._places.items()})
        parts = [structs.LowRank() for _ in self._places]
        for name, change in changes.items():
            parts[self._places[name][0]] = _struct(change)
        max_rank = max((len(change.narrow) for change in changes.values()), default=0)
        self._packed[slot] = _Packed(structs_of(structs.LowRank, parts), max_rank)

    def remove(self, slot: int) -> None:
        """Let an adapter go."""
        del self._packed[slot]

    def call(self, rows: StepRows) -> LoraCall:
        """Return what one step needs of its rows' adapters."""
        runs = [run for run in rows.adapter_runs() if run.slot in self._packed]
        if not runs:
            return LoraCall(None, None, 0, 0)
        of_slots: list[object] = [None] * (1 + max(self._packed))
        for slot, packed in self._packed.items():
            of_slots[slot] = packed.structs
        max_rank = max(self._packed[run.slot].max_rank for run in runs)
        own_runs = structs_of(structs.Run, [structs.Run(*run) for run in runs])
        return LoraCall(pointers(of_slots), own_runs, len(runs), max_rank)


def _struct(change: LowRank) -> structs.LowRank:
    narrow, widen = change.narrow, np.ascontiguousarray(change.widen.T)
    return structs.LowRank(len(narrow), 0, narrow, widen)
