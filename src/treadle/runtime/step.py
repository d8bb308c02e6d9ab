"""From what the scheduler chose to the flat arrays of a step."""

from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import NamedTuple

import numpy as np

from treadle.runtime.executor import Ints, StepRows
from treadle.runtime.request import Request

__all__ = ["Chunk", "next_chunk", "rows_of"]


class Chunk(NamedTuple):
    """The tokens of one request that run in a step: the next `num_rows` not yet computed."""

    request: Request
    num_rows: int
    wanted: tuple[int, ...]
    """Which of them need logits, ascending."""

    is_last: bool
    """Whether a new token follows from the chunk's last row."""


def next_chunk(request: Request, num_rows: int) -> Chunk:
    """Return the next rows of a request, and which of them need logits."""
    first, last = request.num_computed, request.num_computed + num_rows
    wanted: list[int] = []
    if request.params.prompt_logprobs is not None:
        # Row i says what token i + 1 should be; what an earlier run reported is not asked again.
        begin = max(first, request.params.prompt_logprobs_start - 1 + len(request.prompt_logprobs))
        wanted = [row - first for row in range(begin, min(last, request.num_prompt - 1))]
    if last == len(request.tokens):
        wanted.append(num_rows - 1)
    return Chunk(request, num_rows, tuple(wanted), last == len(request.tokens))


def rows_of(
    chunks: Sequence[Chunk], page_size: int, adapters: Mapping[str, int] | None = None
) -> StepRows:
    """Return the rows of `chunks`, whose requests hold pages enough for them.

    Args:
        chunks: What runs in the step.
        page_size: Tokens of a page.
        adapters: Slot of each adapter by its name.
    """
    tokens, positions, slots, pages, wanted = [], [], [], [], []
    first = 0
    for request, num_rows, asked, _ in chunks:
        begin = request.num_computed
        table = np.asarray(request.pages, np.int32)
        place = np.arange(begin, begin + num_rows, dtype=np.int32)
        tokens.append(np.asarray(request.tokens[begin : begin + num_rows], np.int32))
        positions.append(place)
        slots.append(table[place // page_size] * np.int32(page_size) + place % page_size)
        pages.append(table[: -(-(begin + num_rows) // page_size)])
        wanted.append(np.asarray(asked, np.int32) + np.int32(first))
        first += num_rows
    return StepRows(
        _joined(tokens),
        _joined(positions),
        _joined(slots),
        _starts([chunk.num_rows for chunk in chunks]),
        np.asarray([c.request.num_computed + c.num_rows for c in chunks], np.int32),
        _starts([len(table) for table in pages]),
        _joined(pages),
        _joined(wanted),
        adapters=_slots(chunks, adapters or {}),
    )


def _slots(chunks: Sequence[Chunk], adapters: Mapping[str, int]) -> Ints | None:
    """Return the slot of each request's adapter, or None if none of them has one."""
    names = [chunk.request.adapter for chunk in chunks]
    if not any(names):
        return None
    return np.asarray([-1 if name is None else adapters[name] for name in names], np.int32)


def _joined(parts: Sequence[Ints]) -> Ints:
    return np.concatenate(parts).astype(np.int32, copy=False)


def _starts(sizes: list[int]) -> Ints:
    return np.asarray([0, *accumulate(sizes)], np.int32)
