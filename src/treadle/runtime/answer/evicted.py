"""How likely a model finds texts whose heads keep only some entries of the cache."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager

import numpy as np

from treadle.core.errors import CapacityError
from treadle.core.progress import steps
from treadle.runtime.answer.likelihood import Likelihoods, log_probs
from treadle.runtime.evict.keeping import Keeping
from treadle.runtime.executor import Executor, Floats, Targets
from treadle.runtime.request import Request, SamplingParams
from treadle.runtime.schedule.batch import Batch
from treadle.runtime.schedule.rows import RowChunk, rows_of

__all__ = ["EvictedLikelihoods", "likelihoods", "stepped"]


def likelihoods(
    batch: Batch,
    executor: Executor,
    rows: Sequence[Sequence[int]],
    firsts: Sequence[int] | None,
    keep: Keeping | None,
    adapter_slot: int | None,
) -> "Likelihoods | EvictedLikelihoods":
    """Return the log-probabilities of texts in the making, for who steps it between other work.

    Raises:
        CapacityError: The cache does not hold the longest of them.
    """
    asked = [1] * len(rows) if firsts is None else firsts
    if keep is None:
        return Likelihoods(batch, executor, rows, asked, adapter_slot)
    return EvictedLikelihoods(batch, executor, rows, asked, keep, adapter_slot)


def stepped(
    scored: "Likelihoods | EvictedLikelihoods", turn: AbstractContextManager[object]
) -> Iterator[int]:
    """Run all steps, and yield the rows of each; others can take their turn in between."""
    try:
        with steps("score", scored.num_rows) as bar:
            while not scored.is_done:
                with turn:
                    count = scored.step()
                yield count
                bar.advance(count)
    finally:
        with turn:
            scored.close()


class EvictedLikelihoods:
    """What `Likelihoods` gives, of texts that lose entries as a prompt would.

    Which entries go depends on the whole text, so that nothing is shared.

    Args:
        batch: Whose pages are used.
        executor: Computes the steps.
        rows: Texts of at least one token each.
        firsts: The first token of each that is asked for, at least 1.
        keep: What they keep.
        adapter_slot: Of the adapter that all are scored with.

    Raises:
        CapacityError: The cache does not hold what the longest of them keeps.
    """

    def __init__(
        self,
        batch: Batch,
        executor: Executor,
        rows: Sequence[Sequence[int]],
        firsts: Sequence[int],
        keep: Keeping,
        adapter_slot: int | None = None,
    ) -> None:
        self._batch, self._executor = batch, executor
        adapter = None if adapter_slot is None else f"slot {adapter_slot}"
        self._adapters = {} if adapter is None else {adapter: adapter_slot or 0}
        self._rows = [np.asarray(row, np.int32) for row in rows]
        self._firsts = firsts
        self._found: list[list[Floats]] = [[] for _ in rows]
        bounds, dynamic_from = executor.shape.rope_lengths
        self._waiting = [
            Request(
                str(number),
                list(row[:-1]),
                len(row) - 1,
                SamplingParams(),
                0,
                adapter=adapter,
                number=number,
                longest=len(row),
                keep=keep,
                rope_bounds=bounds,
                rope_dynamic_from=dynamic_from,
            )
            for number, row in enumerate(rows)
            if len(row) > 1
        ]
        self._running: list[Request] = []
        self.num_rows = sum(request.num_prompt for request in self._waiting)
        for request in self._waiting:
            if self._needed(request) > batch.pool.num_pages:
                raise CapacityError(
                    f"A text of {request.num_prompt + 1} tokens keeps {self._needed(request)} "
                    f"pages of {batch.pool.page_size}, and the cache has {batch.pool.num_pages}; "
                    f"raise cache_bytes, or lower keep_budget."
                )

    @property
    def is_done(self) -> bool:
        """Whether everything is known."""
        return not self._waiting and not self._running

    def step(self) -> int:
        """Run the next step and return its number of rows."""
        self._admit()
        chunks = self._plan()
        pool, holdings = self._batch.pool, self._batch.holdings
        following = []
        for request, count, _, _ in chunks:
            begin = request.num_computed + 1
            following.append(self._rows[request.number][begin : begin + count])
        tokens = np.concatenate(following)
        targets = Targets(tokens, np.arange(len(tokens) + 1, dtype=np.int32))
        rows = rows_of(chunks, pool.page_size, self._adapters)
        found = log_probs(self._executor, rows, pool.store, targets)
        ends = np.cumsum([chunk.num_rows for chunk in chunks])
        for (request, count, _, _), own in zip(chunks, np.split(found, ends[:-1]), strict=True):
            self._found[request.number].append(own)
            if request.reads_surprises:
                request.surprises.extend((-own).tolist())
            holdings.add_rows(request, count)
            holdings.drop(request)
            if not request.num_remaining:
                holdings.release(request)
                self._running.remove(request)
        return len(tokens)

    def found(self) -> list[Floats]:
        """Return the log-probabilities of each text's tokens that were asked for."""
        nothing = np.zeros(1, np.float32)  # is known of a text's first token
        every = [np.concatenate([nothing, *parts]) for parts in self._found]
        return [row[first:] for row, first in zip(every, self._firsts, strict=True)]

    def close(self) -> None:
        """Give the pages back."""
        for request in self._running:
            self._batch.holdings.release(request)

    def _needed(self, request: Request) -> int:
        return self._batch.holdings.needed(request, request.num_prompt)

    def _admit(self) -> None:
        """Let texts begin that find their pages beside all that have begun."""
        promised = sum(map(self._needed, self._running))
        while self._waiting and len(self._running) < self._batch.limits.max_num_seqs:
            promised += self._needed(self._waiting[0])
            if promised > self._batch.pool.num_pages:
                return
            self._running.append(self._waiting.pop(0))

    def _plan(self) -> list[RowChunk]:
        """Give texts their pages and return what runs."""
        left, chunks = self._batch.limits.max_num_batched_tokens, list[RowChunk]()
        for request in self._running:
            count = min(left, request.num_ready)
            if not count:
                break
            if not self._batch.holdings.grow(request, count):
                if chunks:
                    break
                self._batch.pool.release(self._batch.borrow(self._needed(request)))
                self._batch.holdings.grow(request, count)
            chunks.append(RowChunk(request, count, tuple(range(count)), 0))
            left -= count
        return chunks
