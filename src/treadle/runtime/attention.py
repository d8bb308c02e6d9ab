"""Attention over pages for any transformers model, through its attention registry.

The model calls the registered function with queries, keys and values after their rotary embedding.
A `StepPages` in the call's keyword arguments makes it attend over pages; a call without one (a
training step of the same model, say) computes what the model's own implementation computes.
"""

import sys
from collections.abc import Callable
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from treadle.core.errors import UnsupportedModelError
from treadle.runtime.executor import Segment, StepRows
from treadle.runtime.pages import KeyValues, LayerKeyValues

if TYPE_CHECKING:
    import torch

__all__ = ["STEP", "StepPages", "inside_step", "register"]

STEP = "treadle_step"
"""The keyword under which a model call carries its `StepPages`."""
inside_step: ContextVar[bool] = ContextVar("inside_step", default=False)
"""Whether a model call needs no mask: mask functions do not see the call's keywords."""
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
        query, key, value = args[:3]
        return step.attend(module, query, key, value, **kwargs), None

    def mask(*args: Any, **kwargs: Any) -> Any:
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

    written: "torch.Tensor"
    """[rows * heads] slots, seen as [pages * heads * page_size]."""
    planes: "list[torch.Tensor]"
    """[heads * pages] of each segment, head by head."""


class StepPages:
    """One step's rows and the pool they attend over; lives for one call of the model."""

    def __init__(self, rows: StepRows, pool: KeyValues, device: "torch.device") -> None:
        import torch

        self._pool, self._device = pool, device
        self._segments = list(rows.segments())
        self._pages = torch.from_numpy(rows.slots // pool.page_size).to(device, torch.int64)
        self._offsets = torch.from_numpy(rows.slots % pool.page_size).to(device, torch.int64)
        self._positions = torch.from_numpy(rows.positions).to(device)
        singles = [
            n for n, s in enumerate(self._segments) if s.num_rows == 1 and s.ancestors is None
        ]
        self._singles = singles if len(singles) > 1 else []
        """Segments of one row each, which attend together."""
        self._single_tables: dict[int, torch.Tensor] = {}
        self._single_masks: dict[int | None, torch.Tensor] = {}
        found = [self._segments[n] for n in self._singles]
        self._single_rows = torch.tensor([s.first_row for s in found]).to(device)
        self._single_lengths = torch.tensor([s.context_length for s in found]).to(device)
        self._places: dict[int, _Places] = {}
        self._masks: dict[tuple[int, int | None], torch.Tensor | None] = {}
        if rows.heads is not None:
            raise UnsupportedModelError(
                "The generic step keeps the same tokens for all heads; use an executor that reads "
                "tables of heads, or an eviction policy that keeps the same tokens in every head."
            )

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
            sliding_window: In tokens.
            softcap: Scores become softcap * tanh(score / softcap).
            others: Must not change the result.
        """
        import torch

        for name in _CHANGES_RESULT:
            if others.get(name) is not None:
                raise UnsupportedModelError(
                    f"{type(module).__name__} passes '{name}' to its attention, which the paged "
                    f"one does not compute; run this model with transformers."
                )
        layer = self._pool.layers[module.layer_idx]
        places = self._places_of(key.shape[1])
        self._write(layer, key[0], value[0], places)
        scale = query.shape[-1] ** -0.5 if scaling is None else scaling
        mixed = torch.empty_like(query[0])
        if self._singles:
            rows = self._single_rows
            mixed[:, rows] = self._attend_singles(
                query[0][:, rows], layer, places, scale, sliding_window, softcap
            )
        for number, segment in enumerate(self._segments):
            if number in self._singles:
                continue
            last_row = segment.first_row + segment.num_rows
            own = query[0, :, segment.first_row : last_row]
            keys = self._gather(layer.keys, layer.key_scales, places, number, is_turned=True)
            values = self._gather(layer.values, layer.value_scales, places, number)
            visible = self._mask(number, sliding_window, layer)
            mixed[:, segment.first_row : last_row] = _attend(
                own, keys, values, visible, scale, softcap
            )
        return mixed.transpose(0, 1)[None]

    def _attend_singles(
        self,
        query: "torch.Tensor",
        layer: LayerKeyValues,
        places: _Places,
        scale: float,
        window: int | None,
        softcap: float | None,
    ) -> "torch.Tensor":
        """Return the attention [heads, requests, dim] of requests of one row each, all at once.

        Their contexts are gathered side by side, the shorter ones filled up: a few large operations
        instead of a few small ones for each request.
        """
        import torch

        heads, requests, dim = query.shape
        kv_heads, size = layer.keys.shape[1], self._pool.page_size
        table = self._table_of_singles(kv_heads, places)
        flat, context = table.reshape(-1), table.shape[2] * size
        found = _tensor(layer.keys).view(-1, dim * size).index_select(0, flat)
        keys = found.view(requests, kv_heads, -1, dim, size).transpose(2, 3)
        keys = keys.reshape(requests, kv_heads, dim, context).float()
        found = _tensor(layer.values).view(-1, size * dim).index_select(0, flat)
        values = found.view(requests, kv_heads, context, dim).float()
        if layer.key_scales is not None and layer.value_scales is not None:
            scales = (_tensor(s).view(-1, size) for s in (layer.key_scales, layer.value_scales))
            of_keys, of_values = (
                s.index_select(0, flat).view(*table.shape[:2], -1) for s in scales
            )
            keys, values = keys * of_keys[:, :, None], values * of_values[..., None]
        grouped = query.transpose(0, 1).reshape(requests, kv_heads, -1, dim).float()
        scores = torch.matmul(grouped, keys).mul_(scale)
        if softcap is not None:
            scores = torch.tanh(scores / softcap) * softcap
        scores.masked_fill_(self._hidden_from_singles(context, window), float("-inf"))
        mixed = torch.matmul(torch.softmax(scores, dim=-1), values)
        return mixed.view(requests, heads, dim).transpose(0, 1).to(query.dtype)

    def _table_of_singles(self, heads: int, places: _Places) -> "torch.Tensor":
        """Return the planes [requests, kv_heads, pages] of the segments that attend together."""
        import torch

        if heads not in self._single_tables:
            planes = [places.planes[number].view(heads, -1).T for number in self._singles]
            filled = torch.nn.utils.rnn.pad_sequence(planes, batch_first=True)
            self._single_tables[heads] = filled.transpose(1, 2)
        return self._single_tables[heads]

    def _hidden_from_singles(self, context: int, window: int | None) -> "torch.Tensor":
        """Return which slots [requests, 1, 1, context] these segments do not see."""
        import torch

        if window not in self._single_masks:
            slot, length = torch.arange(context, device=self._device), self._single_lengths[:, None]
            hidden = slot >= length
            if window is not None:
                hidden = hidden | (slot < length - window)
            self._single_masks[window] = hidden[:, None, None]
        return self._single_masks[window]

    def _places_of(self, heads: int) -> _Places:
        import torch

        if heads not in self._places:
            head = torch.arange(heads, device=self._device)
            planes = self._pages[:, None] * heads + head
            written = (planes * self._pool.page_size + self._offsets[:, None]).flatten()
            tables = []
            for segment in self._segments:
                pages = torch.from_numpy(segment.pages).to(self._device, torch.int64)
                tables.append((pages * heads + head[:, None]).flatten())
            self._places[heads] = _Places(written, tables)
        return self._places[heads]

    def _write(
        self, layer: LayerKeyValues, key: "torch.Tensor", value: "torch.Tensor", places: _Places
    ) -> None:
        import torch

        heads, size, dim = key.shape[0], self._pool.page_size, key.shape[-1]

        def rounded(new: torch.Tensor, scales: Any, dtype: torch.dtype) -> torch.Tensor:
            flat = new.transpose(0, 1).reshape(-1, dim).float()
            if scales is not None:
                scale = flat.abs().amax(dim=1) / 127
                _tensor(scales).view(-1).index_copy_(0, places.written, scale)
                flat = (flat / torch.where(scale > 0, scale, 1)[:, None]).round_()
            return flat.to(dtype)

        keys, values = _tensor(layer.keys).view(-1, dim, size), _tensor(layer.values).view(-1, dim)
        new_keys = rounded(key, layer.key_scales, keys.dtype)
        keys.transpose(1, 2)[places.written // size, places.written % size] = new_keys
        values.index_copy_(0, places.written, rounded(value, layer.value_scales, values.dtype))
        repeated = self._positions.repeat_interleave(heads)
        _tensor(layer.positions).view(-1).index_copy_(0, places.written, repeated)

    def _gather(
        self, stored: Any, scales: Any, places: _Places, number: int, is_turned: bool = False
    ) -> "torch.Tensor":
        """Return one side of a segment's context [kv_heads, context, dim] in float32.

        `is_turned`: slots lie behind dimensions.
        """
        table, dim, size = places.planes[number], self._pool.head_dim, self._pool.page_size
        context = self._segments[number].context_length
        heads = stored.shape[1]
        found = _tensor(stored).view(-1, size * dim).index_select(0, table)
        if is_turned:
            by_dim = found.view(heads, -1, dim, size).transpose(1, 2).reshape(heads, dim, -1)
            found = by_dim[:, :, :context].transpose(1, 2).float()
        else:
            found = found.view(heads, -1, dim)[:, :context].float()
        if scales is not None:
            flat = _tensor(scales).view(-1, size)
            found = found * flat.index_select(0, table).view(heads, -1, 1)[:, :context]
        return found

    def _mask(
        self, number: int, window: int | None, layer: LayerKeyValues
    ) -> "torch.Tensor | None":
        """Return which slots [rows, context] of a segment its rows see; None: all."""
        key = (number, window)
        if key not in self._masks:
            self._masks[key] = self._make_mask(self._segments[number], window, layer)
        return self._masks[key]

    def _make_mask(
        self, segment: Segment, window: int | None, layer: LayerKeyValues
    ) -> "torch.Tensor | None":
        import torch

        context, rows = segment.context_length, segment.num_rows
        is_plain = segment.ancestors is None
        if is_plain and rows == 1 and (window is None or window >= context):
            return None
        slot = torch.arange(context, device=self._device)
        if segment.ancestors is None:
            places, row = slot, slot[context - rows :]
            visible = slot <= row[:, None]
        else:
            visible = _tree_mask(segment).to(self._device)
            pages = torch.from_numpy(segment.pages).to(self._device, torch.int64)
            places = _tensor(layer.positions)[pages, 0].flatten()[:context]
            row = self._positions[segment.first_row : segment.first_row + rows]
        if window is not None:
            visible = visible & (row[:, None] - places < window)
        return visible


def _tree_mask(segment: Segment) -> "torch.Tensor":
    """Return which slots [rows, context] the rows see by prefix and bitmask."""
    import torch

    assert segment.ancestors is not None
    tail = np.arange(segment.context_length - segment.prefix_length, dtype=np.uint64)
    bits = (segment.ancestors[:, None] >> tail) & np.uint64(1)
    prefix = np.ones((segment.num_rows, segment.prefix_length), np.bool_)
    return torch.from_numpy(np.concatenate([prefix, bits.astype(np.bool_)], axis=1))


def _attend(
    query: "torch.Tensor",
    keys: "torch.Tensor",
    values: "torch.Tensor",
    visible: "torch.Tensor | None",
    scale: float,
    softcap: float | None,
) -> "torch.Tensor":
    """Return the attention [heads, rows, dim] of one request; float32 throughout."""
    import torch
    from torch.nn import functional

    heads, rows, dim = query.shape
    kv_heads = keys.shape[0]
    if rows > 1 and softcap is None:
        groups = heads // kv_heads
        keys, values = keys.repeat_interleave(groups, 0), values.repeat_interleave(groups, 0)
        return functional.scaled_dot_product_attention(
            query[None].float(), keys[None], values[None], attn_mask=visible, scale=scale
        )[0].to(query.dtype)
    grouped = query.reshape(kv_heads, -1, dim).float()
    scores = torch.matmul(grouped, keys.transpose(1, 2)).mul_(scale)
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    if visible is not None:
        by_row = scores.view(heads, rows, -1).masked_fill(~visible, float("-inf"))
        scores = by_row.view(scores.shape)
    mixed = torch.matmul(torch.softmax(scores, dim=-1), values)
    return mixed.view(heads, rows, -1).to(query.dtype)


def _tensor(array: Any) -> "torch.Tensor":  # Any: a numpy array, or a tensor on a device
    """Return a tensor that shares the array's memory."""
    import torch

    return torch.from_numpy(array) if isinstance(array, np.ndarray) else array
