"""From what the scheduler chose to the flat arrays of a step."""

from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import NamedTuple

import numpy as np

from treadle.runtime.executor import HeadTables, Ints, StepRows
from treadle.runtime.request import Request

__all__ = ["RowChunk", "next_chunk", "rows_of"]


class RowChunk(NamedTuple):
    """The tokens of one request that run in a step: the next `num_rows` not yet computed.

    Behind the last of its tokens its drafts run.
    """

    request: Request
    num_rows: int
    wanted: tuple[int, ...]
    """Which of them need logits, ascending."""

    num_choices: int
    """How many of these, at the end, choose new tokens: the row of the request's last token, and
    those of the drafts behind it."""


def next_chunk(request: Request, num_rows: int) -> RowChunk:
    """Return the next rows of a request, and which of them need logits."""
    first, last = request.num_computed, request.num_computed + num_rows
    wanted: list[int] = []
    if request.params.prompt_logprobs is not None:
        # Row i says what token i + 1 should be; what an earlier run reported is not asked again.
        begin = max(first, request.params.prompt_logprobs_start - 1 + len(request.prompt_logprobs))
        wanted = [row - first for row in range(begin, min(last, request.num_prompt - 1))]
    num_choices = max(0, last - len(request.tokens) + 1)
    wanted += range(num_rows - num_choices, num_rows)
    return RowChunk(request, num_rows, tuple(wanted), num_choices)


def rows_of(
    chunks: Sequence[RowChunk], page_size: int, adapters: Mapping[str, int] | None = None
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
        text = [*request.tokens[begin:], *request.drafts][:num_rows]
        tokens.append(np.asarray(text, np.int32))
        positions.append(np.arange(begin, begin + num_rows, dtype=np.int32))
        own_slots, own_pages = _places(request, num_rows, page_size)
        slots.append(own_slots)
        pages.append(own_pages)
        wanted.append(np.asarray(asked, np.int32) + np.int32(first))
        first += num_rows
    return StepRows(
        _joined(tokens),
        _joined(positions),
        _joined(slots),
        _starts([chunk.num_rows for chunk in chunks]),
        np.asarray([c.request.num_slots + c.num_rows for c in chunks], np.int32),
        _starts([len(table) for table in pages]),
        _joined(pages),
        _joined(wanted),
        heads=_head_tables(chunks),
        adapters=_slots(chunks, adapters or {}),
        text_lengths=np.asarray([_length(c.request) for c in chunks], np.int32),
    )


def _length(request: Request) -> int:
    """Return the tokens by which rotary factors are chosen."""
    is_dynamic = request.rope_dynamic_from is not None
    return request.num_prompt if is_dynamic else len(request.tokens)


def _places(request: Request, num_rows: int, page_size: int) -> tuple[Ints, Ints]:
    """Return the slots of a request's next rows, and the pages of its context with them."""
    if request.entries is not None:
        return np.full(num_rows, -1, np.int32), np.empty(0, np.int32)
    first = request.num_slots
    table = np.asarray(request.pages, np.int32)
    slot = np.arange(first, first + num_rows, dtype=np.int32)
    own = table[slot // page_size] * np.int32(page_size) + slot % page_size
    return own, table[: -(-(first + num_rows) // page_size)]


def _head_tables(chunks: Sequence[RowChunk]) -> HeadTables | None:
    """Return the tables of the requests whose heads keep their own entries, if there are any."""
    kept = [c for c in chunks if c.request.entries is not None]
    if not kept:
        return None
    numbers, place = np.full(len(chunks), -1, np.int32), 0
    for number, chunk in enumerate(chunks):
        if chunk.request.entries is not None:
            numbers[number], place = place, place + 1
    held = [(c.request.entries, c.num_rows) for c in kept if c.request.entries is not None]
    most = max(entries.planes.shape[1] for entries, _ in held)
    planes = np.zeros((len(held), len(held[0][0].lengths), most), np.int32)
    for table, (entries, _) in zip(planes, held, strict=True):
        table[:, : entries.planes.shape[1]] = entries.planes
    lengths = np.stack([entries.lengths + num_rows for entries, num_rows in held])
    return HeadTables(numbers, lengths.astype(np.int32), planes)


def _slots(chunks: Sequence[RowChunk], adapters: Mapping[str, int]) -> Ints | None:
    """Return the slot of each request's adapter, or None if none of them has one."""
    names = [chunk.request.adapter for chunk in chunks]
    if not any(names):
        return None
    return np.asarray([-1 if name is None else adapters[name] for name in names], np.int32)


def _joined(parts: Sequence[Ints]) -> Ints:
    return np.concatenate(parts).astype(np.int32, copy=False)


def _starts(sizes: list[int]) -> Ints:
    return np.asarray([0, *accumulate(sizes)], np.int32)
