"""Where the native step writes what a probe looks at."""

from collections.abc import Iterator, Sequence

import numpy as np

from treadle.runtime.executor import Floats, StepRows
from treadle.runtime.native_step import structs
from treadle.runtime.probe import LayerInputs, Probe, Probed, count_slots

__all__ = ["ProbeRoom"]


class ProbeRoom:
    """The arrays of one probe, and the struct that points to them.

    Args:
        probe: What is looked at; checked.
        rows: Of the step.
        layers: The attention heads of each layer.
        hidden_size: Of the residual stream.
    """

    def __init__(
        self, probe: Probe, rows: StepRows, layers: Sequence[structs.Heads], hidden_size: int
    ) -> None:
        heads = self._heads = [layer.heads for layer in layers]
        self._layers, self._is_by_row = list(layers), probe.mass == "rows"
        self._num_rows, self._hidden_size = len(rows.tokens), hidden_size
        self._states = self._inputs = self._mass = None
        num_slots = 0
        if probe.has_states:
            shape = (len(heads) + 1, len(rows.tokens), hidden_size)
            self._states = np.empty(shape, np.float32)
        if probe.has_inputs:
            count = sum(sum(self._widths(layer)) for layer in layers)
            self._inputs = np.empty(self._num_rows * count, np.float32)
        if probe.mass is not None:
            num_slots = count_slots(rows, probe.segment)
            num_rows = probe.num_rows(rows) if self._is_by_row else 1
            self._mass = np.zeros((num_rows, sum(heads), num_slots), np.float32)
        self.struct = structs.Probe(
            self._states,
            self._inputs,
            self._mass,
            num_slots,
            sum(heads),
            probe.segment,
            probe.first_row,
            self._is_by_row,
        )

    def probed(self, logits: Floats) -> Probed:
        """Return what was seen, with the step's logits."""
        mass = None
        if self._mass is not None:
            layers = np.split(self._mass, np.cumsum(self._heads)[:-1], axis=1)
            mass = tuple(layer if self._is_by_row else layer[0] for layer in layers)
        inputs = None if self._inputs is None else tuple(self._read_inputs(self._inputs))
        return Probed(logits, mass, self._states, inputs)

    def _widths(self, layer: structs.Heads) -> list[int]:
        """Return how many numbers of a row each part of a layer's inputs has."""
        queries, keys = layer.heads * layer.dim, layer.kv_heads * layer.dim
        return [queries, keys, keys, self._hidden_size, queries, keys]

    def _read_inputs(self, numbers: Floats) -> Iterator[LayerInputs]:
        first = 0
        for layer in self._layers:
            parts = []
            for width in self._widths(layer):
                last = first + self._num_rows * width
                parts.append(numbers[first:last].reshape(self._num_rows, width))
                first = last
            hidden, dim = parts.pop(3), layer.dim
            own = [part.reshape(self._num_rows, -1, dim) for part in parts]
            yield LayerInputs(own[0], own[1], own[2], hidden, own[3], own[4], float(layer.scale))
