"""Where the native step writes what a probe looks at."""

from collections.abc import Sequence

import numpy as np

from treadle.runtime.executor import Floats, StepRows
from treadle.runtime.native_step import structs
from treadle.runtime.probe import Probe, Probed, count_slots

__all__ = ["ProbeRoom"]


class ProbeRoom:
    """The arrays of one probe, and the struct that points to them.

    Args:
        probe: What is looked at; checked.
        rows: Of the step.
        heads: Query heads of each layer.
        hidden_size: Of the residual stream.
    """

    def __init__(
        self, probe: Probe, rows: StepRows, heads: Sequence[int], hidden_size: int
    ) -> None:
        self._heads, self._is_by_row = list(heads), probe.mass == "rows"
        self._states = self._mass = None
        num_slots = 0
        if probe.has_states:
            shape = (len(heads) + 1, len(rows.tokens), hidden_size)
            self._states = np.empty(shape, np.float32)
        if probe.mass is not None:
            num_slots = count_slots(rows, probe.segment)
            num_rows = probe.num_rows(rows) if self._is_by_row else 1
            self._mass = np.zeros((num_rows, sum(heads), num_slots), np.float32)
        self.struct = structs.Probe(
            self._states,
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
        return Probed(logits, mass, self._states)
