"""What runs one step of a batch: the rows it gets, the protocol, the shape of its model.

Pure data and numpy, so that a native step, transformers and a simulation take the same call.
"""

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from treadle.model.adapters import Adapter
from treadle.model.retaining import RetainingHeads
from treadle.model.rope import RopeLengths
from treadle.runtime import head_windows
from treadle.runtime.cache.pages import KeyValues

__all__ = [
    "AdapterRun",
    "EntryNotes",
    "Executor",
    "HeadTables",
    "ModelShape",
    "Segment",
    "StepRows",
    "Targets",
]

Ints = npt.NDArray[np.int32]
Floats = npt.NDArray[np.float32]

_RUN_ROWS = 16
"""Rows of an adapter's run at most, so that threads can share a long prompt."""


class ModelShape(NamedTuple):
    """What the cache and the scheduler must know of a model."""

    kv_heads: tuple[int, ...]
    """Key-value heads of each layer; blocks of a pruned model may differ."""
    head_dim: int
    vocab_size: int
    hidden_size: int
    max_positions: int
    windows: tuple[int | None, ...]
    """Sliding window of each layer in tokens (a row sees itself and window - 1 before), or None;
    where its heads have windows of their own, the widest."""
    kv_windows: tuple[tuple[int | None, ...] | None, ...] | None = None
    """[layers][kv_heads] where query heads have windows of their own: what the widest of those that
    read a KV head sees, so that it must keep as much. None for a layer, or all, without."""
    rope_bounds: tuple[int, ...] = ()
    """Ascending lengths: all positions of a text of more tokens turn by other factors."""
    rope_dynamic_from: int | None = None
    """All positions of a prompt of more tokens turn by factors of its own length, and those that
    follow by factors of the length up to them. None: no such factors."""

    @property
    def rope_lengths(self) -> RopeLengths:
        """How rotary factors follow from the length of a text."""
        return RopeLengths(self.rope_bounds, self.rope_dynamic_from)

    @property
    def num_layers(self) -> int:
        """The number of decoder blocks."""
        return len(self.kv_heads)

    def with_windows(
        self, windows: head_windows.Windows, own: Sequence[int | None]
    ) -> "ModelShape":
        """Return the shape with windows for each query head; `own` are those of the layers."""
        if not any(windows):
            return self._replace(windows=tuple(own), kv_windows=None)
        kept = tuple(
            None if layer is None else head_windows.kv_windows(layer, kv_heads)
            for layer, kv_heads in zip(windows, self.kv_heads, strict=True)
        )
        return self._replace(windows=head_windows.layer_windows(windows, own), kv_windows=kept)

    @property
    def num_heads(self) -> int:
        """The number of key-value heads of all layers."""
        return sum(self.kv_heads)


class EntryNotes(NamedTuple):
    """What an executor notes of a segment's entries, beside them in the pool's `arena.scores`."""

    kind: Literal["nothing", "zero", "key_norm", "heads"] = "nothing"
    """What the score of a new entry is: left as it lies, 0, minus the length of its key, or what
    trained heads make of its token."""
    heads: str = ""
    """The name under which the executor holds these (`Executor.add_heads`)."""
    first_counted: int | None = None
    """Row of the segment from which on the probabilities that query heads give to an entry are
    added to its score in their KV head, row after row; None: none are."""
    counts_largest: bool = False
    """Whether the largest probability stays instead of their sum."""
    queries: Floats | None = None
    """[heads of all layers, dim + dim * dim] to which each row's queries (after norms of heads, not
    turned) and their products q q' are added; None: they are not."""
    first_query: int = 0
    """Position from which on queries are added."""

    @property
    def is_empty(self) -> bool:
        """Whether nothing is noted."""
        return self.kind == "nothing" and self.first_counted is None and self.queries is None


class HeadTables(NamedTuple):
    """Tables of each layer and KV head, for segments whose heads keep different entries (eviction).

    Heads are numbered over all layers, those of the first layer first. Of a segment that stands
    here, `StepRows` has no pages, its rows have no slots, and its context length is that of its
    longest head. In every head its new rows are the last entries, and what `StepRows` says of
    visibility holds with the head's own length; with `ancestors`, all heads have the same number of
    slots behind their prefix.
    """

    numbers: Ints
    """[segments] the segment's place in the arrays below; -1: it has one table for all heads."""
    lengths: Ints
    """[kept segments, heads] entries that a head has after this step's writes."""
    planes: Ints
    """[kept segments, heads, most planes] in the pool's arena: entry i of a head stands in
    planes[i // page_size] at offset i % page_size. What lies beyond its length is not read."""
    notes: tuple[EntryNotes, ...] | None = None
    """[kept segments]; None: nothing is noted."""
    packed: Ints | None = None
    """[kept segments, 3] how many units of 256 entries are packed in the planes that come first in
    every head, to how many bits (`cache.units`), and the position of the first packed token: those
    behind it follow. Entries that are not packed stand in the planes behind. None: none is."""

    @property
    def has_notes(self) -> bool:
        """Whether anything is noted."""
        return self.notes is not None and not all(notes.is_empty for notes in self.notes)

    @property
    def reads_inputs(self) -> bool:
        """Whether something is noted of what attention reads, not only of its keys."""
        return any(n.kind == "heads" or n.queries is not None for n in self.notes or ())

    @property
    def counts_weights(self) -> bool:
        """Whether weights of attention are added to the scores of entries."""
        return any(notes.first_counted is not None for notes in self.notes or ())

    def notes_of(self, segment: int) -> EntryNotes | None:
        """Return what is noted of a segment's entries; None where nothing is."""
        number = int(self.numbers[segment])
        if number < 0 or self.notes is None or self.notes[number].is_empty:
            return None
        return self.notes[number]


class Segment(NamedTuple):
    """The rows of one request in a step; a view into `StepRows`."""

    first_row: int
    num_rows: int
    context_length: int
    """Slots that the request has after this step's writes, these rows among them."""
    prefix_length: int
    """Slots at the start of the context that every row of the segment sees; all where it is
    causal."""
    pages: Ints
    """[pages] in the order of the context: slot i of the context stands in pages[i // page_size]
    at offset i % page_size."""
    ancestors: npt.NDArray[np.uint64] | None


class AdapterRun(NamedTuple):
    """Neighbouring rows that use one adapter; the struct Run of step_lora.h."""

    first_row: int
    num_rows: int
    slot: int


class StepRows(NamedTuple):
    """The tokens of one step, all requests one after the other, as flat contiguous arrays.

    *Visibility.* Row r (number i in its segment) sees slot j of its segment's context

    - without `ancestors`: if j <= context_length - num_rows + i (causal);
    - with `ancestors`, unless the segment's prefix_length is -1: if j < prefix_length, or bit
      j - prefix_length of ancestors[r] is set (bit b is bit b % 64 of word b // 64). The row's own
      bit is set by the caller.

    In a layer with a sliding window also position(row) - position(slot) < window must hold.
    The position of a slot is read from the pool's `positions`, which the executor writes along with
    the keys: a text that dropped entries has fewer slots than positions.

    *Order.* Within a layer all keys and values are written before any row attends.
    """

    tokens: Ints
    """[rows]"""
    positions: Ints
    """[rows]"""
    slots: Ints
    """[rows] where the row's key and value go: page * page_size + offset; same in all layers.
    -1 where `heads` says it."""
    row_starts: Ints
    """[segments + 1]; segment s has the rows row_starts[s] : row_starts[s + 1]."""
    context_lengths: Ints
    """[segments]"""
    page_starts: Ints
    """[segments + 1]; segment s has the pages page_starts[s] : page_starts[s + 1]."""
    pages: Ints
    """[sum of the segments' pages]"""
    wanted: Ints
    """[wanted] ascending rows whose logits are needed."""
    prefix_lengths: Ints | None = None
    """[segments]; given with `ancestors`; -1: the segment is causal, and its bits are not read."""
    ancestors: npt.NDArray[np.uint64] | None = None
    """[rows, words], as many as the longest tail behind a prefix has bits."""
    heads: HeadTables | None = None
    adapters: Ints | None = None
    """[segments] slot of each request's adapter, -1 for none."""
    text_lengths: Ints | None = None
    """[segments] tokens of the text that each segment is a part of, by which the factors of its
    rotary embedding are chosen; where these are dynamic, of its prompt. None: every text ends with
    its rows, and is a prompt."""

    def rope_regimes(self, shape: ModelShape) -> Ints:
        """Return [rows]: the regime (see `model.rope`) by whose factors each row turns."""
        lengths: Ints | None = self.text_lengths
        if lengths is None:
            lengths = np.maximum.reduceat(self.positions, self.row_starts[:-1]) + 1
        if shape.rope_dynamic_from is not None:
            of_prompts = np.repeat(lengths, np.diff(self.row_starts))
            beyond: Ints = np.maximum(of_prompts, self.positions + 1) - shape.rope_dynamic_from
            return beyond.clip(0).astype(np.int32)
        regimes = np.searchsorted(np.asarray(shape.rope_bounds, np.int32), lengths)
        return np.repeat(regimes, np.diff(self.row_starts)).astype(np.int32)

    def adapter_runs(self) -> list[AdapterRun]:
        """Return the rows that use adapters; neighbours of one adapter stand together."""
        found: list[AdapterRun] = []
        for index, slot in enumerate([] if self.adapters is None else self.adapters.tolist()):
            first, last = int(self.row_starts[index]), int(self.row_starts[index + 1])
            if found and found[-1].slot == slot and sum(found[-1][:2]) == first:
                first = found.pop().first_row
            for begin in range(first, last if slot >= 0 else first, _RUN_ROWS):
                found.append(AdapterRun(begin, min(_RUN_ROWS, last - begin), slot))
        return found

    def segments(self) -> Iterator[Segment]:
        """Yield each request's part."""
        for index in range(len(self.context_lengths)):
            first, last = int(self.row_starts[index]), int(self.row_starts[index + 1])
            context = int(self.context_lengths[index])
            prefix = -1 if self.prefix_lengths is None else int(self.prefix_lengths[index])
            is_tree = self.ancestors is not None and prefix >= 0
            yield Segment(
                first,
                last - first,
                context,
                prefix if is_tree else context,
                self.pages[self.page_starts[index] : self.page_starts[index + 1]],
                self.ancestors[first:last] if is_tree and self.ancestors is not None else None,
            )


class Targets(NamedTuple):
    """The tokens of which a step says how likely they are behind its wanted rows."""

    tokens: Ints
    """[targets]"""
    starts: Ints
    """[wanted + 1] where those of each wanted row begin; the last entry is their number."""


class Executor(Protocol):
    """Computes steps of one model; one step at a time."""

    shape: ModelShape
    stores_rotated_keys: bool
    """Whether cached keys already carry their rotary position (then they cannot be moved to another
    position). An executor of a model without rotary embedding says True."""
    is_timed: bool
    """Whether it only costs time: its logits mean nothing."""

    def forward(self, rows: StepRows, pool: KeyValues) -> Floats:
        """Write the rows' keys and values into `pool` and return logits [wanted, vocab]."""
        ...

    def hidden(self, rows: StepRows, pool: KeyValues) -> Floats:
        """Do the same, but return the last hidden states [wanted, hidden], after the final norm."""
        ...

    def add_adapter(self, slot: int, adapter: Adapter) -> None:
        """Take an adapter in, for segments whose rows name its slot.

        Raises:
            CheckpointError: It is one for another base.
            UnsupportedModelError: It changes what cannot be changed beside the model.
        """
        ...

    def remove_adapter(self, slot: int) -> None:
        """Let an adapter go."""
        ...

    @property
    def query_heads(self) -> tuple[int, ...]:
        """The query heads of each layer."""
        ...

    def turns(self, positions: Ints) -> Sequence[tuple[Floats, Floats]]:
        """Return the cosines and sines [positions, dim / 2] by which each layer turns.

        Raises:
            UnsupportedModelError: It turns otherwise than by halves of a head, or not at all.
        """
        ...

    def add_heads(self, name: str, heads: RetainingHeads) -> None:
        """Take heads in that score entries, for segments whose notes name them.

        Raises:
            CheckpointError: They are of another shape.
            UnsupportedModelError: They read what this executor does not see of the model.
        """
        ...
