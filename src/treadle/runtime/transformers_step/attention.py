"""Attention over pages for any transformers model, through its attention registry.

The model calls the registered function with queries, keys and values after their rotary embedding.
A `StepPages` in the call's keyword arguments makes it attend over pages; a call without one (a
training step of the same model, say) computes what the model's own implementation computes.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, NamedTuple

from treadle.core.errors import UnsupportedModelError
from treadle.runtime.cache.pages import KeyValues, LayerKeyValues
from treadle.runtime.executor import HeadTables, StepRows
from treadle.runtime.probe import Probe
from treadle.runtime.sharing.trees import runs_of
from treadle.runtime.transformers_step.masks import noted_masks
from treadle.runtime.transformers_step.noting import StepNotes
from treadle.runtime.transformers_step.products import attend, attention_weights
from treadle.runtime.transformers_step.shared import SharedTree
from treadle.runtime.transformers_step.stored import gather_keys, gather_values, opened, write
from treadle.runtime.transformers_step.visibility import (
    EntrySource,
    Window,
    kept_source,
    limits,
    tensor,
    visible_slots,
)

if TYPE_CHECKING:
    import torch

__all__ = ["STEP", "StepPages", "inside_step", "register", "require_plain"]

STEP = "treadle_step"
"""The keyword under which a model call carries its `StepPages`."""
inside_step: ContextVar[bool] = ContextVar("inside_step", default=False)
"""Whether a model call needs no mask: mask functions do not see the call's keywords."""
_MOST_SHARING_ROWS = 64
"""Segments of more rows attend by themselves."""
_CHANGES_RESULT = ("s_aux", "position_bias", "alibi")
"""Keywords of other attention variants, which paged attention does not compute."""


def register(original: str) -> str:
    """Register paged attention that falls back to `original` and return its name."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

    name = f"treadle_{original}"
    own_mask = ALL_MASK_ATTENTION_FUNCTIONS[original]

    def attend(module: Any, *args: Any, **kwargs: Any) -> Any:  # Any: each model has its own words
        step: StepPages | None = kwargs.pop(STEP, None)
        if step is None:
            return _own_attention(module, original)(module, *args, **kwargs)
        names = ("query", "key", "value", "attention_mask")
        return step.attend(module, **dict(zip(names, args, strict=False)), **kwargs), None

    def mask(*args: Any, **kwargs: Any) -> Any:
        noted = noted_masks.get()
        if noted is not None:
            return noted.note(kwargs["mask_function"], kwargs.get("local_size"))
        return None if inside_step.get() else own_mask(*args, **kwargs)

    AttentionInterface.register(name, attend)
    AttentionMaskInterface.register(name, mask)
    return name


def _own_attention(module: Any, original: str) -> Callable[..., Any]:
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    if original == "eager":
        eager: Callable[..., Any] = sys.modules[type(module).__module__].eager_attention_forward
        return eager
    found: Callable[..., Any] = ALL_ATTENTION_FUNCTIONS[original]
    return found


class _Places(NamedTuple):
    """Where things are in a layer's arrays, seen as [pages * heads, ...]; same for equal heads."""

    rows: "torch.Tensor"
    """The rows of segments with one table for all heads."""
    written: "torch.Tensor"
    """[rows * heads] their slots, seen as [pages * heads * page_size]."""
    planes: "list[torch.Tensor]"
    """[heads, pages] of each segment; empty where heads have their own tables."""


class StepPages:
    """One step's rows and the pool they attend over; lives for one call of the model."""

    def __init__(
        self,
        rows: StepRows,
        pool: KeyValues,
        device: "torch.device",
        windows: Sequence[Window] | None = None,
        probe: Probe | None = None,
        sharing: str = "path",
        notes: StepNotes | None = None,
    ) -> None:
        import torch

        self._windows = windows
        self._watched = probe.segment if probe is not None and probe.mass is not None else None
        """The segment whose attention is looked at."""
        self._probe, self._notes = probe, notes
        self.inputs: dict[int, tuple[torch.Tensor, torch.Tensor, torch.Tensor, float]] = {}
        """Queries, keys and values of each layer, [heads, rows, dim], as they meet the cache, and
        the scale of their products, where these are looked at."""
        self.mass: dict[int, torch.Tensor] = {}
        """What each layer's heads gave: [heads, slots], or [rows, heads, slots]."""
        self._pool, self._device = pool, device
        self._segments = list(rows.segments())
        self._pages = torch.from_numpy(rows.slots // pool.page_size).to(device, torch.int64)
        self._offsets = torch.from_numpy(rows.slots % pool.page_size).to(device, torch.int64)
        self._positions = torch.from_numpy(rows.positions).to(device)
        self._kept = {} if rows.heads is None else _kept_numbers(rows.heads)
        """Segments whose heads have their own tables, and their places there."""
        self._tables = rows.heads
        runs = [] if sharing == "path" or probe is not None else runs_of(rows, _MOST_SHARING_ROWS)
        self._trees = [SharedTree(rows, run, pool.page_size, sharing, device) for run in runs]
        """Segments that attend together because they share pages."""
        self._shared = frozenset().union(*(tree.segments for tree in self._trees))
        alone = self._kept.keys() | self._shared | {self._watched}
        singles = [
            number
            for number, segment in enumerate(self._segments)
            if segment.num_rows == 1 and segment.ancestors is None and number not in alone
        ]
        self._singles = singles if len(singles) > 1 else []
        """Segments of one row each, which attend together."""
        self._single_tables: dict[int, torch.Tensor] = {}
        self._single_masks: dict[Window, torch.Tensor] = {}
        found = [self._segments[n] for n in self._singles]
        self._single_rows = torch.tensor([s.first_row for s in found]).to(device)
        self._single_lengths = torch.tensor([s.context_length for s in found]).to(device)
        self._places: dict[int, _Places] = {}
        self._masks: dict[tuple[int, Window], torch.Tensor | None] = {}

    def attend(
        self,
        module: Any,  # Any: an attention module of transformers
        query: "torch.Tensor",
        key: "torch.Tensor",
        value: "torch.Tensor",
        scaling: float | None = None,
        sliding_window: int | None = None,
        softcap: float | None = None,
        **others: Any,
    ) -> "torch.Tensor":
        """Write this layer's keys and values, then attend; returns [1, rows, heads, dim].

        Args:
            module: Knows its layer.
            query: [1, heads, rows, dim]
            key: [1, kv_heads, rows, dim]
            value: [1, kv_heads, rows, dim]
            scaling: Of the scores; 1 / sqrt(dim) unless given.
            sliding_window: In tokens, where the step was not told the layers' windows.
            softcap: Scores become softcap * tanh(score / softcap).
            others: Must not change the result.
        """
        import torch

        require_plain(module, others)
        layer = self._pool.layers[module.layer_idx]
        places = self._places_of(key.shape[1])
        scale = query.shape[-1] ** -0.5 if scaling is None else scaling
        if self._probe is not None and self._probe.has_inputs:
            self.inputs[module.layer_idx] = (query[0], key[0], value[0], scale)
        if self._pool.key_factors is not None:
            factors = torch.from_numpy(self._pool.key_factors[module.layer_idx])[:, None]
            factors = factors.to(key.device)
            key = key / factors
            query = query * factors.repeat_interleave(query.shape[1] // key.shape[1], 0)
        self._write(layer, key[0], value[0], places)
        for number in self._kept:
            self._write_kept(number, module.layer_idx, key[0], value[0])
        window = sliding_window if self._windows is None else self._windows[module.layer_idx]
        mixed = torch.empty_like(query[0])
        if self._singles:
            rows = self._single_rows
            mixed[:, rows] = self._attend_singles(
                query[0][:, rows], layer, places, scale, window, softcap
            )
        for tree in self._trees:
            own = query[0][:, tree.rows]
            mixed[:, tree.rows] = tree.attend(own, layer, scale, window, softcap)
        for number, segment in enumerate(self._segments):
            if number in self._singles or number in self._shared:
                continue
            last_row = segment.first_row + segment.num_rows
            own = query[0, :, segment.first_row : last_row]
            source = self._source(number, module.layer_idx, places)
            keys = gather_keys(source)
            values = gather_values(source)
            visible = self._mask(number, window, source)
            counts = self._notes is not None and self._notes.counts(number, segment.num_rows)
            if number == self._watched or counts:
                weights = attention_weights(own, keys, visible, scale, softcap)
                self._record(module.layer_idx, number, weights, source)
            mixed[:, segment.first_row : last_row] = attend(
                own, keys, values, visible, scale, softcap
            )
        return mixed.transpose(0, 1)[None]

    def _record(
        self, layer: int, number: int, weights: "torch.Tensor", source: EntrySource
    ) -> None:
        """Keep the probabilities [heads, rows, context] of a segment for who asked for them."""
        if self._notes is not None and self._notes.counts(number, weights.shape[1]):
            self._notes.count(number, weights, source)
        if number != self._watched:
            return
        assert self._probe is not None
        counted = weights[:, self._probe.first_row :]
        is_sum = self._probe.mass == "sum"
        self.mass[layer] = counted.sum(dim=1) if is_sum else counted.transpose(0, 1)

    def _attend_singles(
        self,
        query: "torch.Tensor",
        layer: LayerKeyValues,
        places: _Places,
        scale: float,
        window: Window,
        softcap: float | None,
    ) -> "torch.Tensor":
        """Return the attention [heads, requests, dim] of requests of one row each, all at once.

        Their contexts are gathered side by side, the shorter ones filled up: a few large operations
        instead of a few small ones for each request.
        """
        import torch

        heads, requests, dim = query.shape
        kv_heads, size = layer.keys.shape[1], self._pool.page_size
        columns = layer.keys.shape[2]
        table = self._table_of_singles(kv_heads, places)
        flat, context = table.reshape(-1), table.shape[2] * size
        found = tensor(layer.keys).view(-1, columns * size).index_select(0, flat)
        keys = found.view(requests, kv_heads, -1, columns, size).transpose(2, 3)
        own = [
            None if s is None else tensor(s).view(-1, size).index_select(0, flat)
            for s in (layer.key_scales, layer.value_scales)
        ]
        of_keys, of_values = (s if s is None else s.view(*table.shape[:2], -1) for s in own)
        keys = opened(keys.reshape(requests, kv_heads, columns, context), of_keys, -2)
        found = tensor(layer.values).view(-1, size * columns).index_select(0, flat)
        values = opened(found.view(requests, kv_heads, context, columns), of_values, -1)
        grouped = query.transpose(0, 1).reshape(requests, kv_heads, -1, dim).float()
        scores = torch.matmul(grouped, keys).mul_(scale)
        if softcap is not None:
            scores = torch.tanh(scores / softcap) * softcap
        scores.masked_fill_(self._hidden_from_singles(table, layer, window), float("-inf"))
        mixed = torch.matmul(torch.softmax(scores, dim=-1), values)
        return mixed.view(requests, heads, dim).transpose(0, 1).to(query.dtype)

    def _table_of_singles(self, heads: int, places: _Places) -> "torch.Tensor":
        """Return the planes [requests, kv_heads, pages] of the segments that attend together."""
        import torch

        if heads not in self._single_tables:
            planes = [places.planes[number].T for number in self._singles]
            filled = torch.nn.utils.rnn.pad_sequence(planes, batch_first=True)
            self._single_tables[heads] = filled.transpose(1, 2)
        return self._single_tables[heads]

    def _hidden_from_singles(
        self, table: "torch.Tensor", layer: LayerKeyValues, window: Window
    ) -> "torch.Tensor":
        """Return which slots [requests, kv_heads or 1, group or 1, context] these do not see."""
        import torch

        if window not in self._single_masks:
            size = self._pool.page_size
            context = table.shape[2] * size
            slot, length = torch.arange(context, device=self._device), self._single_lengths[:, None]
            hidden = (slot >= length)[:, None]
            if window is not None:
                held = tensor(layer.positions).view(-1, size)[table[:, 0]].flatten(1)
                ago = self._positions[self._single_rows][:, None] - held
                hidden = hidden | (ago[:, None] >= limits(window, self._device)[:, 0])
            groups = table.shape[1] if isinstance(window, tuple) else 1
            self._single_masks[window] = hidden.view(len(table), groups, -1, context)
        return self._single_masks[window]

    def _places_of(self, heads: int) -> _Places:
        import torch

        if heads not in self._places:
            plain = [s for n, s in enumerate(self._segments) if n not in self._kept]
            own = [row for s in plain for row in range(s.first_row, s.first_row + s.num_rows)]
            rows = torch.tensor(own, dtype=torch.int64, device=self._device)
            head = torch.arange(heads, device=self._device)
            planes = self._pages[rows, None] * heads + head
            written = (planes * self._pool.page_size + self._offsets[rows, None]).flatten()
            tables = []
            for segment in self._segments:
                pages = torch.from_numpy(segment.pages).to(self._device, torch.int64)
                tables.append(pages * heads + head[:, None])
            self._places[heads] = _Places(rows, written, tables)
        return self._places[heads]

    def _source(self, number: int, layer: int, places: _Places) -> EntrySource:
        """Return where the context of a segment lies in a layer."""
        if number not in self._kept:
            context = self._segments[number].context_length
            return EntrySource(self._pool.layers[layer], places.planes[number], context, None)
        assert self._tables is not None
        return kept_source(self._tables, self._kept[number], layer, self._pool, self._device)

    def _write_kept(
        self, number: int, layer: int, key: "torch.Tensor", value: "torch.Tensor"
    ) -> None:
        """Write the rows of a segment whose heads have their own tables."""
        import torch

        segment, size = self._segments[number], self._pool.page_size
        source = self._source(number, layer, self._places_of(key.shape[0]))
        assert source.lengths is not None
        rows = torch.arange(segment.num_rows, device=self._device)
        entry = (source.lengths - segment.num_rows - source.num_packed)[:, None] + rows
        planes = source.planes.gather(1, entry // size)
        written = (planes * size + entry % size).T.flatten()
        rows = rows + segment.first_row
        own = _Places(rows, written, [])
        self._write(source.arrays, key, value, own)
        if self._notes is not None:
            part = slice(segment.first_row, segment.first_row + segment.num_rows)
            whole = key[:, part]
            if self._pool.key_factors is not None:
                factors = torch.from_numpy(self._pool.key_factors[layer])[:, None]
                whole = whole * factors.to(key.device)
            noted = (whole, self._positions[part], written, source.arrays.scores)
            self._notes.note(number, layer, part, *noted)

    def _write(
        self, arrays: LayerKeyValues, key: "torch.Tensor", value: "torch.Tensor", places: _Places
    ) -> None:
        """Write keys and values [kv_heads, rows, dim] of the rows of `places`."""
        positions = self._positions[places.rows]
        write(arrays, key[:, places.rows], value[:, places.rows], places.written, positions)

    def _mask(self, number: int, window: Window, source: EntrySource) -> "torch.Tensor | None":
        """Return which slots [rows, context] of a segment its rows see; None: all.

        [kv_heads, rows, context] where heads have their own tables, [heads, rows, context] where
        they have their own windows.
        """
        segment = self._segments[number]
        row_positions = self._positions[segment.first_row : segment.first_row + segment.num_rows]
        if source.lengths is not None:
            return visible_slots(segment, row_positions, source, window)
        key = (number, window)
        if key not in self._masks:
            self._masks[key] = visible_slots(segment, row_positions, source, window)
        return self._masks[key]


def require_plain(module: Any, others: Mapping[str, Any]) -> None:
    """Refuse what other variants of attention are called with.

    Raises:
        UnsupportedModelError: It would change the result.
    """
    for name in _CHANGES_RESULT:
        if others.get(name) is not None:
            raise UnsupportedModelError(
                f"{type(module).__name__} passes '{name}' to its attention, which the paged one "
                f"does not compute; run this model with transformers."
            )


def _kept_numbers(tables: HeadTables) -> dict[int, int]:
    """Return the segments whose heads have their own tables, and their places there."""
    return {n: own for n, own in enumerate(tables.numbers.tolist()) if own >= 0}
