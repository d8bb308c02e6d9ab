"""What can be seen inside a step: attention by slot, and the residual stream by layer."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

import numpy as np

from treadle.core.errors import SettingsError
from treadle.runtime.cache.pages import KeyValues
from treadle.runtime.executor import Executor, Floats, StepRows
from treadle.runtime.head_windows import HeadWindows
from treadle.runtime.typed import flag, whole

__all__ = [
    "LayerInputs",
    "Observable",
    "Probe",
    "Probed",
    "count_slots",
    "key_factors",
    "probe_text",
]

_PAGE_SIZE = 16
_NUM_MEASURED = 128


@dataclass(frozen=True)
class Probe:
    """What to look at while a step runs.

    Raises:
        SettingsError: A value is of another type, or nothing is asked for.
    """

    mass: Literal["sum", "rows"] | None = "sum"
    """The attention probabilities of one segment: added up over its rows, or row by row."""
    segment: int = 0
    """The number of that segment in the step."""
    first_row: int = 0
    """Of the segment; rows before it do not count (the last rows of a prompt are SnapKV's)."""
    has_states: bool = True
    """Whether the residual stream of all rows of the step is kept."""
    has_inputs: bool = False
    """Whether queries, keys and values of all rows are kept, and what they come from."""

    def __post_init__(self) -> None:
        """Check the values."""
        whole("segment", self.segment, 0)
        whole("first_row", self.first_row, 0)
        flag("has_states", self.has_states)
        flag("has_inputs", self.has_inputs)
        if self.mass not in ("sum", "rows", None):
            raise SettingsError(f"Found mass={self.mass!r}; choose 'sum', 'rows' or None.")
        if self.mass is None and not self.has_states and not self.has_inputs:
            raise SettingsError(
                "A probe that looks at nothing; leave mass at 'sum', or let has_states be true."
            )

    def check(self, rows: StepRows) -> None:
        """Refuse what a step does not have.

        Raises:
            SettingsError: It has no such segment or row.
        """
        if self.mass is None:
            return
        num_segments = len(rows.context_lengths)
        if self.segment >= num_segments:
            raise SettingsError(
                f"Found segment={self.segment} for a step of {num_segments} segments; choose one "
                f"of them, counted from 0."
            )
        if self.num_rows(rows) < 1:
            raise SettingsError(
                f"Found first_row={self.first_row}, behind the last row of segment "
                f"{self.segment}; lower it."
            )

    def num_rows(self, rows: StepRows) -> int:
        """Return how many rows of the segment count."""
        first, last = rows.row_starts[self.segment : self.segment + 2].tolist()
        return int(last - first - self.first_row)


class LayerInputs(NamedTuple):
    """What a layer's attention works with, of all rows of a step."""

    queries: Floats | None
    """[rows, heads, dim] as its matrix gives them, with its bias: before norms of heads and rotary
    embedding. None where the model has one matrix for queries, keys and values."""
    keys: Floats | None
    """[rows, kv_heads, dim]"""
    values: Floats
    """[rows, kv_heads, dim]"""
    hidden: Floats
    """[rows, hidden] what these matrices read."""
    turned_queries: Floats
    """[rows, heads, dim] what meets the keys of the cache."""
    turned_keys: Floats
    """[rows, kv_heads, dim]"""
    scale: float
    """Of their products."""


class Probed(NamedTuple):
    """What a step gave."""

    logits: Floats
    """[wanted, vocab]"""
    mass: tuple[Floats, ...] | None
    """For each layer [heads, slots], or [rows, heads, slots] where rows stay apart: the probability
    that each query head gave to each slot of the segment's context, in the order of its pages. In
    every head a row adds up to one. Where heads keep their own entries (eviction), slot i is the
    head's entry i, and what lies beyond its length is 0. Slots are those of the longest head."""
    states: Floats | None
    """[layers + 1, rows, hidden]: what each block reads, and last what the final norm reads."""
    inputs: tuple[LayerInputs, ...] | None = None
    """Of each layer."""


class Observable(Executor, Protocol):
    """An executor that shows what happens inside a step, and narrows what heads see."""

    def probe(self, rows: StepRows, pool: KeyValues, probe: Probe) -> Probed:
        """Do what `forward` does, and return what `probe` asks for beside the logits.

        Raises:
            SettingsError: The step has no such segment or row.
        """
        ...

    def set_head_windows(self, windows: HeadWindows | None) -> None:
        """Give each query head a window of its own; None: the model's windows again.

        From the next step on, a head sees the newest `window` positions of what its rows may see.
        What stands in a pool was computed with the windows before: begin with an empty one.

        Raises:
            SettingsError: They do not fit the model's layers and heads.
        """
        ...


def probe_text(executor: Observable, tokens: Sequence[int], probe: Probe) -> Probed:
    """Run one text in one step of its own and return what `probe` asks for.

    Slot i is token i. Logits are those of the last token.

    Raises:
        SettingsError: There is no token, more of them than the model has positions, or one that the
            model does not have; or the probe asks for a row that there is not.
    """
    count, shape = len(tokens), executor.shape
    if not 1 <= count <= shape.max_positions:
        raise SettingsError(
            f"Found {count} tokens, expected 1 to {shape.max_positions}; give a text that fits the "
            f"model's positions."
        )
    for place, token in enumerate(tokens):
        if whole(f"tokens[{place}]", token, 0) >= shape.vocab_size:
            raise SettingsError(
                f"Found tokens[{place}]={token} for a vocabulary of {shape.vocab_size}; give ids "
                f"of this model's tokenizer."
            )
    num_pages = -(-count // _PAGE_SIZE)
    pool = KeyValues(shape.kv_heads, shape.head_dim, num_pages, _PAGE_SIZE)
    places, pages = np.arange(count, dtype=np.int32), np.arange(num_pages, dtype=np.int32)
    starts, page_starts = np.array([[0, count], [0, num_pages]], np.int32)
    context, wanted = np.array([count], np.int32), places[-1:]
    text = np.asarray(tokens, np.int32)
    rows = StepRows(text, places, places, starts, context, page_starts, pages, wanted)
    return executor.probe(rows, pool, probe)


def key_factors(executor: Observable) -> list[Floats]:
    """Return how large each dimension of keys [kv_heads, dim] is, of each layer.

    They are the largest ones of a fixed text of tokens by chance, so that they follow from the
    model alone, rounded to quarters of a power of two, so that all executors find the same.
    """
    count = min(_NUM_MEASURED, executor.shape.max_positions)
    tokens = np.random.default_rng(0).integers(0, executor.shape.vocab_size, count).tolist()
    inputs = probe_text(executor, tokens, Probe(None, has_states=False, has_inputs=True)).inputs
    assert inputs is not None
    found = []
    for layer in inputs:
        largest = np.abs(layer.turned_keys).max(axis=0)
        largest = np.maximum(largest, 1e-3 * largest.max(axis=-1, keepdims=True))
        sound = np.where((largest > 0) & np.isfinite(largest), largest, 1.0)
        found.append(np.exp2(np.round(np.log2(sound) * 4) / 4).astype(np.float32))
    return found


def count_slots(rows: StepRows, segment: int) -> int:
    """Return the slots of a segment after the step's writes, of its longest head."""
    number = -1 if rows.heads is None else int(rows.heads.numbers[segment])
    if rows.heads is None or number < 0:
        return int(rows.context_lengths[segment])
    return int(rows.heads.lengths[number].max())
