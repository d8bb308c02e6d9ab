"""A vector for a text: the mean of its last hidden states."""

import numpy as np

from treadle.runtime.executor import Executor, Floats, StepRows
from treadle.runtime.schedule.batch import Batch

__all__ = ["HiddenMean"]


class HiddenMean:
    """The mean [hidden] over a text's last hidden states; accumulated in float64.

    Borrows pages from the batch until it is closed, and takes a step for each chunk of the batch's
    token budget, so that others can run in between.
    """

    def __init__(
        self, batch: Batch, executor: Executor, tokens: list[int], adapter_slot: int | None = None
    ) -> None:
        self._batch, self._executor, self._tokens = batch, executor, tokens
        self._pages = batch.borrow(-(-len(tokens) // batch.pool.page_size))
        self._adapters = None if adapter_slot is None else np.asarray([adapter_slot], np.int32)
        self._total = np.zeros(executor.shape.hidden_size, np.float64)
        self._num_done = 0

    def step(self) -> Floats | None:
        """Take in the next chunk; return the mean after the last one."""
        size, first = self._batch.pool.page_size, self._num_done
        last = min(first + self._batch.limits.max_num_batched_tokens, len(self._tokens))
        place = np.arange(first, last, dtype=np.int32)
        table = np.asarray(self._pages, np.int32)
        used = -(-last // size)
        rows = StepRows(
            np.asarray(self._tokens[first:last], np.int32),
            place,
            table[place // size] * np.int32(size) + place % size,
            np.asarray([0, len(place)], np.int32),
            np.asarray([last], np.int32),
            np.asarray([0, used], np.int32),
            table[:used],
            np.arange(len(place), dtype=np.int32),
            adapters=self._adapters,
            text_lengths=np.asarray([len(self._tokens)], np.int32),
        )
        hidden = self._executor.hidden(rows, self._batch.pool.store)
        self._total += hidden.sum(axis=0, dtype=np.float64)
        self._num_done = last
        if last < len(self._tokens):
            return None
        return (self._total / last).astype(np.float32)

    def close(self) -> None:
        """Give the pages back."""
        pages, self._pages = self._pages, []
        if pages:
            self._batch.pool.release(pages)
