"""A vector for a text: the mean of its last hidden states."""

import numpy as np

from treadle.runtime.executor import Executor, Floats, StepRows
from treadle.runtime.schedule.batch import Batch

__all__ = ["mean_hidden"]


def mean_hidden(
    batch: Batch, executor: Executor, tokens: list[int], adapter_slot: int | None = None
) -> Floats:
    """Return the mean [hidden] over the tokens' last hidden states; accumulated in float64.

    Borrows pages from the batch while it runs, in chunks of its token budget.
    """
    size, chunk = batch.pool.page_size, batch.limits.max_num_batched_tokens
    pages = batch.borrow(-(-len(tokens) // size))
    table = np.asarray(pages, np.int32)
    adapters = None if adapter_slot is None else np.asarray([adapter_slot], np.int32)
    total = np.zeros(executor.shape.hidden_size, np.float64)
    try:
        for first in range(0, len(tokens), chunk):
            place = np.arange(first, min(first + chunk, len(tokens)), dtype=np.int32)
            used = -(-(int(place[-1]) + 1) // size)
            rows = StepRows(
                np.asarray(tokens, np.int32)[place],
                place,
                table[place // size] * np.int32(size) + place % size,
                np.asarray([0, len(place)], np.int32),
                place[-1:] + np.int32(1),
                np.asarray([0, used], np.int32),
                table[:used],
                np.arange(len(place), dtype=np.int32),
                adapters=adapters,
                text_lengths=np.asarray([len(tokens)], np.int32),
            )
            total += executor.hidden(rows, batch.pool.store).sum(axis=0, dtype=np.float64)
    finally:
        batch.pool.release(pages)
    return (total / len(tokens)).astype(np.float32)
