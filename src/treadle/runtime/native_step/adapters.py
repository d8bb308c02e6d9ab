"""LoRA in the native step: an adapter's factors as C reads them, and the rows that use them."""

import ctypes
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from treadle.core.codec import Array
from treadle.model import facts
from treadle.model.adapters import Adapter
from treadle.runtime.executor import StepRows
from treadle.runtime.linear.lora import LowRank, low_ranks
from treadle.runtime.native_step import structs

__all__ = ["LoraCall", "NativeAdapters"]

_LLAMA = facts.ARCHITECTURES["llama"]
"""peft names modules as transformers does, and there all decoders of the native step agree."""


class _Packed(NamedTuple):
    """One adapter: a struct for every role of every layer, and what these point into."""

    structs: Any  # Any: an array type of ctypes
    arrays: list[Array]
    max_rank: int


class LoraCall(NamedTuple):
    """The adapters of one step; `fields` point into `held`, which must live as long."""

    fields: tuple[int | None, int | None, int, int]
    held: tuple[object, ...]


class NativeAdapters:
    """The adapters of a native step by slot.

    Args:
        layers: The structs of the step's layers.
        roles: Names of a layer's matrices, in the order of the targets in step_lora.h.
    """

    def __init__(self, layers: Iterable[ctypes.Structure], roles: Sequence[str]) -> None:
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
        packed = _Packed(
            (structs.LowRank * len(self._places))(),
            [],
            max((len(change.narrow) for change in changes.values()), default=0),
        )
        for name, change in changes.items():
            packed.structs[self._places[name][0]] = _struct(change, packed.arrays)
        self._packed[slot] = packed

    def remove(self, slot: int) -> None:
        """Let an adapter go."""
        del self._packed[slot]

    def call(self, rows: StepRows) -> LoraCall:
        """Return what one step needs of its rows' adapters."""
        runs = rows.adapter_runs()
        if not runs:
            return LoraCall((None, None, 0, 0), ())
        table = (ctypes.c_void_p * (1 + max(self._packed)))()
        for slot, packed in self._packed.items():
            table[slot] = ctypes.addressof(packed.structs)
        array = (structs.Run * len(runs))(*(structs.Run(*run) for run in runs))
        max_rank = max(self._packed[run.slot].max_rank for run in runs)
        fields = (ctypes.addressof(table), ctypes.addressof(array), len(runs), max_rank)
        return LoraCall(fields, (table, array))


def _struct(change: LowRank, arrays: list[Array]) -> structs.LowRank:
    narrow, widen = change.narrow, np.ascontiguousarray(change.widen.T)
    arrays += [narrow, widen]
    return structs.LowRank(len(narrow), 0, narrow.ctypes.data, widen.ctypes.data)
