"""How likely a model finds texts: steps that give the log-probabilities of given tokens alone."""

from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np

from treadle.core.errors import CapacityError
from treadle.runtime.answer.stretches import Stretch, stretches_of
from treadle.runtime.cache.pages import KeyValues
from treadle.runtime.executor import Executor, Floats, Ints, StepRows, Targets
from treadle.runtime.logits import require_numbers
from treadle.runtime.schedule.batch import Batch

__all__ = ["Likelihoods", "log_probs"]


@runtime_checkable
class _SaysLikelihoods(Protocol):
    """An executor that keeps no logits of tokens that are not asked for."""

    def log_probs(self, rows: StepRows, pool: KeyValues, targets: Targets) -> Floats: ...


def log_probs(executor: Executor, rows: StepRows, pool: KeyValues, targets: Targets) -> Floats:
    """Run a step and return the log-probabilities [targets] of tokens behind its wanted rows.

    Sums over the vocabulary accumulate in float64.

    Raises:
        CheckpointError: They are no numbers.
    """
    if isinstance(executor, _SaysLikelihoods):
        found = executor.log_probs(rows, pool, targets)
    else:
        found = _taken(executor.forward(rows, pool), targets)
    require_numbers(found[np.isnan(found)], pool.dtype)
    return found


def _taken(logits: Floats, targets: Targets) -> Floats:
    found = np.empty(len(targets.tokens), np.float32)
    ends = zip(targets.starts[:-1].tolist(), targets.starts[1:].tolist(), strict=True)
    for row, (first, last) in zip(logits, ends, strict=True):
        values = row.astype(np.float64)
        highest = values.max()
        with np.errstate(invalid="ignore"):  # what is no number is refused by `log_probs`
            whole = highest + np.log(np.exp(values - highest).sum())
            found[first:last] = values[targets.tokens[first:last]] - whole
    return found


class _Chunk(NamedTuple):
    """The rows [begin, begin + num_rows) of the text of a stretch, which run in one step."""

    stretch: Stretch
    begin: int
    num_rows: int


class _Asked(NamedTuple):
    """What is asked of a step."""

    wanted: Ints
    """The rows behind which something is asked."""
    targets: Targets
    places: list[Floats]
    """Where the answers go, in the order of the targets."""


class Likelihoods:
    """The log-probabilities of each of some texts' tokens from a given one on.

    What texts have in common at their start is computed once; where they part, each takes the pages
    before and goes on. Takes pages from the batch as it needs them, and a step at a time, so that
    others can run in between.

    Args:
        batch: Whose pages are used.
        executor: Computes the steps.
        rows: Texts of at least one token each.
        firsts: The first token of each that is asked for, at least 1: nothing is known of token 0.
        adapter_slot: Of the adapter that all are scored with.

    Raises:
        CapacityError: The cache does not hold the longest of them.
    """

    def __init__(
        self,
        batch: Batch,
        executor: Executor,
        rows: Sequence[Sequence[int]],
        firsts: Sequence[int],
        adapter_slot: int | None = None,
    ) -> None:
        self._batch, self._pool, self._executor = batch, batch.pool, executor
        self._rows = [np.asarray(row, np.int32) for row in rows]
        self._firsts, self._slot = firsts, adapter_slot
        longest = max((len(row) - 1 for row in rows), default=0)
        if self._num_pages(longest) > self._pool.num_pages:
            raise CapacityError(
                f"A text of {longest + 1} tokens takes {self._num_pages(longest)} pages of "
                f"{self._pool.page_size}, and the cache has {self._pool.num_pages}; raise "
                f"cache_bytes, or give shorter texts."
            )
        self._stretches = stretches_of(rows, firsts, executor.shape.rope_lengths)
        self._ready = [p for p in self._stretches[::-1] if p.parent is None and p.has_rows]
        self.num_rows = sum(p.last - p.begin for p in self._stretches)
        """Rows that have to run for all texts."""

    @property
    def is_done(self) -> bool:
        """Whether everything is known."""
        return not self._ready

    def step(self) -> int:
        """Run the next step and return its number of rows."""
        chunks = list(self._plan())
        asked = _asked(chunks, self._rows)
        rows = self._step_rows(chunks, asked.wanted)
        found = log_probs(self._executor, rows, self._pool.store, asked.targets)
        ends = np.cumsum([len(place) for place in asked.places])[:-1]
        for place, values in zip(asked.places, np.split(found, ends), strict=False):
            place[:] = values
        for stretch, begin, num_rows in chunks:
            stretch.num_done = begin + num_rows
            if stretch.num_done == stretch.last:
                self._finish(stretch)
        return len(rows.tokens)

    def found(self) -> list[Floats]:
        """Return the log-probabilities of each text's tokens that were asked for."""
        by_row: dict[int, Floats] = {}
        for stretch in self._stretches:
            if stretch.ends:
                path = [stretch]
                while path[-1].parent is not None:
                    path.append(path[-1].parent)
                values = np.concatenate([part.log_probs for part in path[::-1]])
                by_row |= {number: values[self._firsts[number] :] for number in stretch.ends}
        return [by_row[number] for number in range(len(self._rows))]

    def close(self) -> None:
        """Give the pages back."""
        for stretch in self._stretches:
            self._release(stretch)

    def _num_pages(self, num_tokens: int) -> int:
        return -(-num_tokens // self._pool.page_size)

    def _plan(self) -> Iterator[_Chunk]:
        """Give stretches their pages and yield what runs: ends of texts come before new ones."""
        left = self._batch.limits.max_num_batched_tokens
        is_first = True
        while left and self._ready:
            stretch = self._ready[-1]
            if not self._grow(stretch, left, is_first):
                return
            chunk = _Chunk(stretch, stretch.num_done, min(left, stretch.last - stretch.num_done))
            left, is_first = left - chunk.num_rows, False
            yield chunk
            if chunk.begin + chunk.num_rows < stretch.last:
                return
            self._ready.pop()

    def _grow(self, stretch: Stretch, most: int, must: bool) -> bool:
        """Give a stretch the pages of up to `most` rows; says whether it has them.

        Where it must have them, what the others hold goes, and they are computed again from their
        start.
        """
        if not stretch.pages:
            self._start(stretch)
        if not self._free(self._missing(stretch, most)):
            if not must:
                return False
            for other in self._ready:
                for holder in (other.parent, other if other is not stretch else None):
                    if holder is not None:
                        self._release(holder)
            self._pool.release(self._batch.borrow(self._missing(stretch, most)))
        at = stretch.num_done // self._pool.page_size
        if stretch.num_done % self._pool.page_size:
            stretch.pages[at] = self._pool.own(stretch.pages[at])
        needed = self._num_pages(min(stretch.num_done + most, stretch.last))
        stretch.pages += self._pool.allocate(needed - len(stretch.pages))
        return True

    def _start(self, stretch: Stretch) -> None:
        """Let a stretch hold what its parent holds; without that it begins anew."""
        parent, stretch.num_done = stretch.parent, 0
        if parent is None or not parent.pages:
            return
        stretch.num_done, stretch.pages = stretch.begin, list(parent.pages)
        self._pool.retain(stretch.pages)
        parent.num_waiting -= 1
        if not parent.num_waiting:
            self._release(parent)

    def _missing(self, stretch: Stretch, most: int) -> int:
        """Return the pages that a stretch lacks, with the copy of one that others hold, too."""
        size, done = self._pool.page_size, stretch.num_done
        is_shared = done % size > 0 and self._pool.holders[stretch.pages[done // size]] > 1
        return (
            self._num_pages(min(done + most, stretch.last)) - len(stretch.pages) + bool(is_shared)
        )

    def _free(self, count: int) -> bool:
        """Take pages from the prefix tree until `count` are free; says whether they are."""
        short = count - self._pool.num_free
        return short <= 0 or self._batch.tree.evict(short) >= short

    def _finish(self, stretch: Stretch) -> None:
        """Let what follows a stretch run, or let its pages go."""
        following = [child for child in stretch.children if child.has_rows]
        stretch.num_waiting = len(following)
        self._ready += following[::-1]
        if not following:
            self._release(stretch)

    def _release(self, stretch: Stretch) -> None:
        pages, stretch.pages, stretch.num_done = stretch.pages, [], 0
        self._pool.release(pages)

    def _step_rows(self, chunks: Sequence[_Chunk], wanted: Ints) -> StepRows:
        size = self._pool.page_size
        tokens, places, slots, tables = [], [], [], []
        for stretch, begin, count in chunks:
            place = np.arange(begin, begin + count, dtype=np.int32)
            table = np.asarray(stretch.pages[: self._num_pages(begin + count)], np.int32)
            tokens.append(self._rows[stretch.row][begin : begin + count])
            places.append(place)
            slots.append(table[place // size] * np.int32(size) + place % size)
            tables.append(table)
        slot = self._slot
        return StepRows(
            np.concatenate(tokens),
            np.concatenate(places),
            np.concatenate(slots),
            _starts([chunk.num_rows for chunk in chunks]),
            _ints([chunk.begin + chunk.num_rows for chunk in chunks]),
            _starts([len(table) for table in tables]),
            np.concatenate(tables),
            wanted,
            adapters=None if slot is None else np.full(len(chunks), slot, np.int32),
            text_lengths=_ints([len(self._rows[stretch.row]) - 1 for stretch, _, _ in chunks]),
        )


def _asked(chunks: Sequence[_Chunk], rows: Sequence[Ints]) -> _Asked:
    """Return what is asked of chunks: of a stretch's tokens but the first, and that of each child.

    A row says how likely the token behind it is.
    """
    wanted, tokens, counts = [_ints([])], [_ints([])], list[int]()
    places: list[Floats] = []
    row = 0
    for stretch, begin, num_rows in chunks:
        stop = begin + num_rows
        first = max(begin, stretch.begin, stretch.asked - 1)
        end = max(first, min(stop, stretch.stop - 1))
        wanted.append(np.arange(first, end, dtype=np.int32) + np.int32(row - begin))
        tokens.append(rows[stretch.row][first + 1 : end + 1])
        places.append(stretch.log_probs[first + 1 - stretch.begin : end + 1 - stretch.begin])
        counts += [1] * (end - first)
        asking = [child for child in stretch.children if child.asked <= child.begin]
        row += num_rows
        if asking and stop == stretch.stop:
            wanted.append(_ints([row - 1]))
            tokens.append(_ints([int(rows[child.row][child.begin]) for child in asking]))
            places += [child.log_probs[:1] for child in asking]
            counts.append(len(asking))
    return _Asked(np.concatenate(wanted), Targets(np.concatenate(tokens), _starts(counts)), places)


def _ints(values: Sequence[int]) -> Ints:
    return np.asarray(values, np.int32)


def _starts(counts: Sequence[int]) -> Ints:
    return np.asarray([0, *accumulate(counts)], np.int32)
