"""LoRA in the native step: an adapter's factors as C reads them, and the rows that use them."""

import ctypes
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from treadle.model import facts
from treadle.model.adapters import Adapter
from treadle.native.pointers import pointers
from treadle.native.pointers import structs as structs_of
from treadle.runtime.executor import Floats, StepRows
from treadle.runtime.linear.lora import LowRank, low_ranks
from treadle.runtime.native_step import structs
from treadle.runtime.native_step.parts import MatrixPart, Rows

__all__ = ["AdapterPlaces", "LoraCall", "NativeAdapters"]


class _Packed(NamedTuple):
    """One adapter: a struct for every role of every layer."""

    structs: "ctypes.Array[structs.LowRank]"
    max_rank: int
    gates: list[Floats | None]
    """Of each layer: what the gate [hidden] of its shared expert gets."""


class LoraCall(NamedTuple):
    """The adapters of one step, as the last fields of `structs.Rows` take them."""

    adapters: "ctypes.Array[ctypes.c_void_p] | None"
    runs: "ctypes.Array[structs.Run] | None"
    num_runs: int
    max_rank: int
    gates: "ctypes.Array[ctypes.c_void_p] | None"


class _Place(NamedTuple):
    """One of the matrices of the struct Layer that a tensor holds."""

    number: int
    """Among those of all layers."""
    rows: Rows
    """Of the tensor."""


class AdapterPlaces:
    """Which matrices an adapter changes when it changes a tensor, by peft's name of that.

    Args:
        roles: Names of a layer's matrices, in the order of the targets in step_lora.h.
    """

    def __init__(self, roles: Sequence[str]) -> None:
        self._roles = list(roles)
        self.shapes: dict[str, tuple[int, int]] = {}
        """Name -> [out, in] of the whole tensor."""
        self.places: dict[str, list[_Place]] = {}
        self.gates: dict[str, int] = {}
        """Name of the gate of a shared expert -> its layer."""
        self.num_matrices = self.num_layers = 0

    def add_gate(self, name: str, layer: int, gate: Floats) -> None:
        """Note that the tensor `name` is the gate [hidden] of a layer's shared expert."""
        self.shapes[name], self.gates[name] = (1, len(gate)), layer

    def add(self, name: str, layer: int, part: MatrixPart, shapes: facts.Shapes) -> None:
        """Note that a matrix of a layer lies in the tensor `name`."""
        number = layer * len(self._roles) + self._roles.index(part.role)
        self.shapes[name] = part.linear.whole_shape(shapes)
        self.places.setdefault(name, []).append(_Place(number, part.rows))
        self.num_layers = layer + 1
        self.num_matrices = self.num_layers * len(self._roles)


class NativeAdapters:
    """The adapters of a native step by slot.

    Args:
        places: Of the matrices that they may change.
    """

    def __init__(self, places: AdapterPlaces) -> None:
        self._places = places
        self._packed: dict[int, _Packed] = {}

    def add(self, slot: int, adapter: Adapter) -> None:
        """Take an adapter in; see `low_ranks` for what is refused."""
        changes = low_ranks(adapter, self._places.shapes)
        parts = [structs.LowRank() for _ in range(self._places.num_matrices)]
        gates: list[Floats | None] = [None] * self._places.num_layers
        for name, change in changes.items():
            if name in self._places.gates:
                gates[self._places.gates[name]] = (change.widen @ change.narrow)[0]
                continue
            for place in self._places.places[name]:
                parts[place.number] = _struct(change, place.rows)
        max_rank = max((len(change.narrow) for change in changes.values()), default=0)
        self._packed[slot] = _Packed(structs_of(structs.LowRank, parts), max_rank, gates)

    def remove(self, slot: int) -> None:
        """Let an adapter go."""
        del self._packed[slot]

    def call(self, rows: StepRows) -> LoraCall:
        """Return what one step needs of its rows' adapters."""
        runs = [run for run in rows.adapter_runs() if run.slot in self._packed]
        if not runs:
            return LoraCall(None, None, 0, 0, None)
        of_slots: list[object] = [None] * (1 + max(self._packed))
        for slot, packed in self._packed.items():
            of_slots[slot] = packed.structs
        max_rank = max(self._packed[run.slot].max_rank for run in runs)
        own_runs = structs_of(structs.Run, [structs.Run(*run) for run in runs])
        return LoraCall(pointers(of_slots), own_runs, len(runs), max_rank, self._gates())

    def _gates(self) -> "ctypes.Array[ctypes.c_void_p] | None":
        """Return what the gates of all slots' layers get; None where nothing."""
        if not self._places.gates:
            return None
        num_layers = self._places.num_layers
        found: list[object] = [None] * (num_layers * (1 + max(self._packed)))
        for slot, packed in self._packed.items():
            found[slot * num_layers : (slot + 1) * num_layers] = packed.gates
        return pointers(found)


def _struct(change: LowRank, rows: Rows) -> structs.LowRank:
    narrow, widen = change.narrow, np.ascontiguousarray(change.widen[rows].T)
    return structs.LowRank(len(narrow), 0, narrow, widen)
