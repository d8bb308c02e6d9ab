"""An executor that only costs time, for simulations and for tests of the scheduler."""

from collections.abc import Callable

import numpy as np

from treadle.model.adapters import Adapter
from treadle.model.retaining import RetainingHeads
from treadle.runtime.cache.pages import KeyValues
from treadle.runtime.executor import Floats, Ints, ModelShape, StepRows

__all__ = ["TimedExecutor"]


class TimedExecutor:
    """Costs a linear function of a step's rows and contexts on a virtual clock.

    Its logits prefer one token that follows from the row's token and position, so that runs of it
    can be compared; they mean nothing.
    """

    stores_rotated_keys = True
    is_timed = True

    def __init__(
        self,
        shape: ModelShape,
        advance: Callable[[float], None],
        step_seconds: float = 0.0,
        row_seconds: float = 0.0,
        context_seconds: float = 0.0,
    ) -> None:
        """Set the cost: of each step, each row, and each pair of a row and a slot it may see."""
        self.shape, self._advance = shape, advance
        self._costs = (step_seconds, row_seconds, context_seconds)

    def forward(self, rows: StepRows, pool: KeyValues) -> Floats:
        """Let the time of the step pass and return logits [wanted, vocab]."""
        pairs = int(np.dot(np.diff(rows.row_starts), rows.context_lengths))
        self._advance(float(np.dot(self._costs, (1, len(rows.tokens), pairs))))
        logits = np.zeros((len(rows.wanted), self.shape.vocab_size), np.float32)
        tokens, positions = rows.tokens[rows.wanted], rows.positions[rows.wanted]
        chosen = (7 * tokens.astype(np.int64) + 13 * positions + 1) % self.shape.vocab_size
        logits[np.arange(len(chosen)), chosen] = 1
        return logits

    def hidden(self, rows: StepRows, pool: KeyValues) -> Floats:
        """Let the time of the step pass and return zeros [wanted, hidden]."""
        self.forward(rows, pool)
        return np.zeros((len(rows.wanted), self.shape.hidden_size), np.float32)

    def add_adapter(self, slot: int, adapter: Adapter) -> None:
        """Take no notice: an adapter costs nothing here."""

    def remove_adapter(self, slot: int) -> None:
        """Take no notice."""

    @property
    def query_heads(self) -> tuple[int, ...]:
        """The query heads of each layer: as many as it has KV heads."""
        return self.shape.kv_heads

    def turns(self, positions: Ints) -> list[tuple[Floats, Floats]]:
        """Say that nothing turns."""
        half = np.zeros((len(positions), self.shape.head_dim // 2), np.float32)
        return [(half + 1, half)] * self.shape.num_layers

    def add_heads(self, name: str, heads: RetainingHeads) -> None:
        """Take no notice."""
