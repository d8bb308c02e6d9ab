"""From what the scheduler chose to the flat arrays of a step."""

from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from treadle.runtime.executor import EntryNotes, HeadTables, Ints, StepRows
from treadle.runtime.request import Request

__all__ = ["RowChunk", "ancestor_masks", "next_chunk", "rows_of"]


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
    if request.reads_surprises:
        begin = max(first, len(request.surprises) - 1)
        unknown = (row - first for row in range(begin, min(last, len(request.tokens) - 1)))
        wanted = sorted({*wanted, *unknown})
    num_choices = max(0, last - len(request.tokens) + 1)
    wanted += range(num_rows - num_choices, num_rows)
    return RowChunk(request, num_rows, tuple(wanted), num_choices)


class _Part(NamedTuple):
    """Neighbouring rows of a chunk that make a segment of their own."""

    chunk: RowChunk
    first: int
    num_rows: int
    is_tree: bool = False
    """Whether it is the row of the text's last token with the tree of drafts that hangs on it."""

    @property
    def end(self) -> int:
        """Slots of the context with these rows."""
        return self.chunk.request.num_slots + self.first + self.num_rows

    @property
    def parents(self) -> list[int]:
        """The row that each one follows, -1 for the first."""
        if not self.is_tree:
            return list(range(-1, self.num_rows - 1))
        drafted = self.chunk.request.draft_parents[: self.num_rows - 1]
        return [-1, *(parent + 1 for parent in drafted)]


def rows_of(
    chunks: Sequence[RowChunk], page_size: int, adapters: Mapping[str, int] | None = None
) -> StepRows:
    """Return the rows of `chunks`, whose requests hold pages enough for them.

    Where a request has a tree of drafts, its rows say by bits what they see, and stand in a segment
    of their own.

    Args:
        chunks: What runs in the step.
        page_size: Tokens of a page.
        adapters: Slot of each adapter by its name.
    """
    has_trees = any(chunk.num_choices > 1 and chunk.request.draft_parents for chunk in chunks)
    parts = _parts(chunks) if has_trees else [_Part(c, 0, c.num_rows) for c in chunks]
    tokens, positions, slots, pages, wanted = [], [], [], [], []
    first = 0
    for request, num_rows, asked, _ in chunks:
        begin = request.num_computed
        text = [*request.tokens[begin:], *request.drafts][:num_rows]
        tokens.append(np.asarray(text, np.int32))
        slots.append(_slots_of(request, num_rows, page_size))
        wanted.append(np.asarray(asked, np.int32) + np.int32(first))
        first += num_rows
    for part in parts:
        begin = part.chunk.request.num_computed + part.first
        positions.append(np.asarray(_depths(part.parents), np.int32) + np.int32(begin))
        pages.append(_pages_of(part, page_size))
    ends = np.asarray([part.end for part in parts], np.int32)
    return StepRows(
        _joined(tokens),
        _joined(positions),
        _joined(slots),
        _starts([part.num_rows for part in parts]),
        ends,
        _starts([len(table) for table in pages]),
        _joined(pages),
        _joined(wanted),
        _prefixes(parts) if has_trees else None,
        _masks(parts) if has_trees else None,
        heads=_head_tables(parts),
        adapters=_slots(parts, adapters or {}),
        text_lengths=np.asarray([_length(part.chunk.request) for part in parts], np.int32),
    )


def _parts(chunks: Sequence[RowChunk]) -> list[_Part]:
    """Return the segments of all chunks; trees stand in one of their own."""
    found = []
    for chunk in chunks:
        is_tree = chunk.num_choices > 1 and bool(chunk.request.draft_parents)
        num_causal = chunk.num_rows - chunk.num_choices if is_tree else chunk.num_rows
        if num_causal:
            found.append(_Part(chunk, 0, num_causal))
        if is_tree:
            found.append(_Part(chunk, num_causal, chunk.num_choices, is_tree))
    return found


def _prefixes(parts: Sequence[_Part]) -> Ints:
    """Return the slots before the rows of trees, and -1 for causal segments."""
    found = [part.end - part.num_rows if part.is_tree else -1 for part in parts]
    return np.asarray(found, np.int32)


def _masks(parts: Sequence[_Part]) -> npt.NDArray[np.uint64]:
    """Return the masks [rows, words] of all rows; those of causal segments say nothing."""
    trees = [ancestor_masks(part.parents) if part.is_tree else None for part in parts]
    words = max(tree.shape[1] for tree in trees if tree is not None)
    found = np.zeros((sum(part.num_rows for part in parts), words), np.uint64)
    first = 0
    for part, tree in zip(parts, trees, strict=True):
        if tree is not None:
            found[first : first + len(tree), : tree.shape[1]] = tree
        first += part.num_rows
    return found


def ancestor_masks(parents: Sequence[int]) -> npt.NDArray[np.uint64]:
    """Return [rows, words] what each row of a tree sees of its rows, itself included, as bits.

    Args:
        parents: The row that each row follows, -1 for none; it stands before it.
    """
    own: list[int] = []
    for row, parent in enumerate(parents):
        own.append((own[parent] if parent >= 0 else 0) | 1 << row)
    octets = 8 * -(-len(parents) // 64)
    return np.frombuffer(b"".join(bits.to_bytes(octets, "little") for bits in own), "<u8").reshape(
        len(own), -1
    )


def _depths(parents: Sequence[int]) -> list[int]:
    found: list[int] = []
    for parent in parents:
        found.append(found[parent] + 1 if parent >= 0 else 0)
    return found


def _length(request: Request) -> int:
    """Return the tokens by which rotary factors are chosen."""
    is_dynamic = request.rope_dynamic_from is not None
    return request.num_prompt if is_dynamic else len(request.tokens)


def _slots_of(request: Request, num_rows: int, page_size: int) -> Ints:
    """Return the slots of a request's next rows."""
    if request.entries is not None:
        return np.full(num_rows, -1, np.int32)
    first = request.num_slots
    table = np.asarray(request.pages, np.int32)
    slot = np.arange(first, first + num_rows, dtype=np.int32)
    return table[slot // page_size] * np.int32(page_size) + slot % page_size


def _pages_of(part: _Part, page_size: int) -> Ints:
    """Return the pages of a segment's context, its own rows with it."""
    request = part.chunk.request
    count = 0 if request.entries is not None else -(-part.end // page_size)
    return np.asarray(request.pages[:count], np.int32)


def _head_tables(parts: Sequence[_Part]) -> HeadTables | None:
    """Return the tables of the requests whose heads keep their own entries, if there are any."""
    held, notes = [], []
    for part in parts:
        request, last = part.chunk.request, part.first + part.num_rows
        if request.entries is None:
            continue
        held.append((request.entries, last))
        notes.append(_notes_of(request, request.num_computed + part.first, part.num_rows))
    if not held:
        return None
    numbers, place = np.full(len(parts), -1, np.int32), 0
    for number, part in enumerate(parts):
        if part.chunk.request.entries is not None:
            numbers[number], place = place, place + 1
    most = max(entries.planes.shape[1] for entries, _ in held)
    planes = np.zeros((len(held), len(held[0][0].lengths), most), np.int32)
    for table, (entries, _) in zip(planes, held, strict=True):
        table[:, : entries.planes.shape[1]] = entries.planes
    lengths = np.stack([entries.lengths + num_rows for entries, num_rows in held])
    packed = [entries.packed for entries, _ in held]
    units = np.asarray(packed, np.int32) if any(units for units, *_ in packed) else None
    return HeadTables(numbers, lengths.astype(np.int32), planes, tuple(notes), units)


def _notes_of(request: Request, num_computed: int, num_rows: int) -> EntryNotes:
    """Return what is noted of a request's next rows."""
    assert request.keep is not None
    assert request.entries is not None
    queries = request.entries.queries
    return request.keep.notes(num_computed, num_rows, request.num_prompt, queries)


def _slots(parts: Sequence[_Part], adapters: Mapping[str, int]) -> Ints | None:
    """Return the slot of each segment's adapter, or None where none has one."""
    names = [part.chunk.request.adapter for part in parts]
    if not any(names):
        return None
    return np.asarray([-1 if name is None else adapters[name] for name in names], np.int32)


def _joined(parts: Sequence[Ints]) -> Ints:
    return np.concatenate(parts).astype(np.int32, copy=False)


def _starts(sizes: list[int]) -> Ints:
    return np.asarray([0, *accumulate(sizes)], np.int32)
