"""Trained heads that score entries, as the native step holds them, and what it notes of entries."""

from collections.abc import Sequence

import numpy as np

from treadle.model.retaining import LayerHeads, RetainingHeads, require_shape
from treadle.native.pointers import structs
from treadle.runtime.executor import EntryNotes, HeadTables
from treadle.runtime.linear.held import HeldWeights
from treadle.runtime.linear.packed import PackedLayout, Room, pack
from treadle.runtime.native_step.structs import Heads, Noted, Retaining

__all__ = ["NativeNotes"]

_NOTES = {"nothing": 0, "zero": 1, "key_norm": 2, "heads": 3}
_KINDS = {"linear": 0, "mlp": 1, "gate": 2}
_READS = {"projections": 0, "hidden": 1}
_ACTIVATIONS = {"silu": 0, "gelu": 1, "relu": 2}
_NEVER = 2**31 - 1


class NativeNotes:
    """Holds trained heads by name, and says what is noted of a step's entries.

    Their first matrices are held in 8 bits where the model's are codes, else in float32.

    Args:
        heads: The attention heads of each layer.
        hidden_size: Of the residual stream.
        weights: Of the model.
        layout: How the machine's kernel wants them.
    """

    def __init__(
        self, heads: Sequence[Heads], hidden_size: int, weights: HeldWeights, layout: PackedLayout
    ) -> None:
        self._heads, self._hidden_size, self._layout = list(heads), hidden_size, layout
        self._has_codes = any(form.startswith("q") for form in weights.forms)
        self._held: dict[str, object] = {}

    def add(self, name: str, heads: RetainingHeads) -> None:
        """Take heads in.

        Raises:
            CheckpointError: They are of another shape.
        """
        shapes = [(layer.heads, layer.kv_heads, layer.dim) for layer in self._heads]
        require_shape(heads, shapes, self._hidden_size)
        room = Room()
        own = [self._layer(heads, layer, room) for layer in heads.layers]
        self._held[name] = structs(Retaining, own)

    def _layer(self, heads: RetainingHeads, layer: LayerHeads, room: Room) -> Retaining:
        has_codes = self._has_codes and layer.first.shape[1] % 32 == 0
        first = pack(
            layer.first, "q8" if has_codes else "fp32", self._layout, room, layer.first_bias
        )
        parts = (layer.second, layer.second_bias, layer.norms, layer.sinks, layer.bias)
        return Retaining(
            first.struct,
            *(None if part is None else np.ascontiguousarray(part, np.float32) for part in parts),
            _KINDS[heads.kind],
            _READS[heads.reads],
            _ACTIVATIONS[heads.activation],
            0 if layer.sinks is None else layer.sinks.shape[1],
        )

    def of(self, tables: HeadTables) -> object | None:
        """Return the structs of a step's kept segments; None where nothing is noted."""
        if tables.notes is None or not tables.has_notes:
            return None
        return structs(Noted, [self._noted(notes) for notes in tables.notes])

    def _noted(self, notes: EntryNotes) -> Noted:
        first = _NEVER if notes.first_counted is None else notes.first_counted
        return Noted(
            self._held[notes.heads] if notes.kind == "heads" else None,
            notes.queries,
            _NOTES[notes.kind],
            first,
            notes.counts_largest,
            notes.first_query,
        )
