"""Attention of rows that share pages, for the generic step: every page is gathered once."""

from collections.abc import Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from treadle.runtime.cache.pages import LayerKeyValues
from treadle.runtime.executor import StepRows
from treadle.runtime.sharing.flat import FlatTree, flattened
from treadle.runtime.sharing.plan import CHUNK, SLOTS
from treadle.runtime.sharing.trees import SharedRun, cascade
from treadle.runtime.transformers_step.stored import opened
from treadle.runtime.transformers_step.visibility import Window, limits, tensor

if TYPE_CHECKING:
    import torch

    from treadle.runtime.transformers_step.tree_kernel import FlatBlocks

__all__ = ["SharedTree", "takes_kernel"]


def takes_kernel(device: "torch.device") -> bool:
    """Say whether the kernel for GPUs can run."""
    return device.type == "cuda" and find_spec("triton") is not None


class _Part(NamedTuple):
    """Some rows of a tree, and some of its slots."""

    rows: "torch.Tensor"
    """Their places among the rows of the tree."""
    begin: int
    end: int


class _Partial(NamedTuple):
    """What rows met of the slots of a part."""

    rows: "torch.Tensor"
    largest: "torch.Tensor"
    """[rows, heads] the largest score, minus infinity where nothing is seen."""
    total: "torch.Tensor"
    """[rows, heads] the sum of the weights relative to it."""
    mixed: "torch.Tensor"
    """[rows, heads, dim] the values by these weights."""


class SharedTree:
    """A tree of one step; lives for one call of the model.

    Args:
        rows: Of the step.
        run: The tree.
        page_size: Tokens of a page.
        mode: One of `sharing.plan.MODES` but auto and path.
        device: Where the pool is.
    """

    def __init__(
        self, rows: StepRows, run: SharedRun, page_size: int, mode: str, device: "torch.device"
    ) -> None:
        import torch

        flat = flattened(rows, run, page_size)
        self.segments = frozenset(run.segments)
        self._mode, self._page_size = mode, page_size
        self._parts = [
            _Part(torch.from_numpy(np.flatnonzero(own)).to(device), begin, end)
            for own, begin, end in _parts(mode, run, flat, page_size)
        ]
        self._members = torch.from_numpy(flat.members).to(device, torch.int64)
        self._pages = torch.from_numpy(flat.pages).to(device, torch.int64)
        self._seen = torch.from_numpy(flat.seen).to(device)
        self._unseen = torch.from_numpy(~flat.seen.any(axis=0)).to(device)
        """[slots] what lies behind the texts, and may be anything."""
        self._positions = torch.from_numpy(rows.positions[flat.members]).to(device)
        self._hidden: dict[Window, torch.Tensor] = {}
        self._blocks: FlatBlocks | None = None
        if mode == "flatten" and takes_kernel(device):
            from treadle.runtime.transformers_step.tree_kernel import blocks_of

            self._blocks = blocks_of(flat, _parts(mode, run, flat, page_size), page_size, device)

    @property
    def rows(self) -> "torch.Tensor":
        """Its rows among those of the step."""
        return self._members

    def attend(
        self,
        query: "torch.Tensor",
        layer: LayerKeyValues,
        scale: float,
        window: Window,
        softcap: float | None,
    ) -> "torch.Tensor":
        """Return the attention [heads, rows, dim] of the tree's rows; float32 throughout.

        Args:
            query: [heads, rows, dim] of these rows.
            layer: Of the pool.
            scale: Of the scores.
            window: Of the layer, or of each of its query heads.
            softcap: Scores become softcap * tanh(score / softcap).
        """
        is_plain = layer.key_scales is None and not isinstance(window, tuple)
        if self._blocks is not None and is_plain:
            return self._by_kernel(self._blocks, query, layer, scale, window, softcap)
        keys = self._gathered(layer.keys, layer.key_scales, is_turned=True)
        values = self._gathered(layer.values, layer.value_scales)
        values = values.masked_fill(self._unseen[None, :, None], 0)
        hidden = self._hidden_of(layer, window)
        grouped = query.transpose(0, 1).reshape(query.shape[1], keys.shape[0], -1, query.shape[2])
        found = [
            self._met(part, grouped.float(), keys, values, hidden, scale, softcap)
            for part in self._parts
        ]
        return _reduced(found, query.shape[1]).transpose(0, 1).to(query.dtype)

    def _by_kernel(
        self,
        blocks: "FlatBlocks",
        query: "torch.Tensor",
        layer: LayerKeyValues,
        scale: float,
        window: Window,
        softcap: float | None,
    ) -> "torch.Tensor":
        from treadle.runtime.transformers_step.tree_kernel import attend_blocks

        assert not isinstance(window, tuple)
        found = attend_blocks(
            blocks,
            query.transpose(0, 1).float(),
            tensor(layer.keys),
            tensor(layer.values),
            tensor(layer.positions),
            self._positions,
            scale,
            window,
            softcap,
        )
        return found.transpose(0, 1).to(query.dtype)

    def _met(
        self,
        part: _Part,
        query: "torch.Tensor",
        keys: "torch.Tensor",
        values: "torch.Tensor",
        hidden: "torch.Tensor",
        scale: float,
        softcap: float | None,
    ) -> _Partial:
        """Let the rows of a part meet its slots: query [rows, kv_heads, group, dim]."""
        import torch

        count, kv_heads, group, dim = len(part.rows), *query.shape[1:]
        slots = slice(part.begin, part.end)
        own = query[part.rows].transpose(0, 1).reshape(kv_heads, -1, dim)
        scores = torch.matmul(own, keys[:, :, slots]) * scale
        if softcap is not None:
            scores = torch.tanh(scores / softcap) * softcap
        scores = scores.view(kv_heads, count, group, -1).permute(1, 0, 2, 3).flatten(1, 2)
        scores = scores.masked_fill(hidden[part.rows][..., slots], float("-inf"))
        largest = scores.amax(-1)
        # Minus infinity less itself would be NaN.
        base = torch.where(largest.isinf(), 0, largest)
        weights = torch.exp(scores - base[..., None])
        by_head = weights.view(count, kv_heads, group, -1).transpose(0, 1).flatten(1, 2)
        mixed = torch.matmul(by_head, values[:, slots]).view(kv_heads, count, group, dim)
        return _Partial(part.rows, largest, weights.sum(-1), mixed.transpose(0, 1).flatten(1, 2))

    def _gathered(
        self,
        stored: object,
        scales: object,
        is_turned: bool = False,
    ) -> "torch.Tensor":
        """Return the tree's keys [kv_heads, dim, slots], or values [kv_heads, slots, dim]."""
        found = tensor(stored).index_select(0, self._pages).transpose(0, 1)
        own = None
        if scales is not None:
            own = tensor(scales).index_select(0, self._pages).transpose(0, 1)
        found = opened(found, own, -2 if is_turned else -1)
        if is_turned:
            return found.transpose(1, 2).flatten(2)
        return found.flatten(1, 2)

    def _hidden_of(self, layer: LayerKeyValues, window: Window) -> "torch.Tensor":
        """Return what the rows do not see [rows, heads or 1, slots]."""
        if window not in self._hidden:
            hidden = ~self._seen[:, None]
            if window is not None:
                held = tensor(layer.positions).index_select(0, self._pages)[:, 0].flatten()
                ago = self._positions[:, None] - held
                hidden = hidden | (ago[:, None] >= limits(window, self._seen.device)[:, 0])
            self._hidden[window] = hidden
        return self._hidden[window]


def _parts(
    mode: str, run: SharedRun, flat: FlatTree, page_size: int
) -> list[tuple[np.ndarray, int, int]]:
    """Return which rows [rows of the tree] meet which slots together."""
    num_slots = flat.seen.shape[1]
    if mode == "dense":
        return [(np.ones(len(flat.seen), np.bool_), 0, num_slots)]
    if mode == "flatten":
        size = max(page_size, SLOTS // page_size * page_size)
        cuts = _cut(0, num_slots, size)
    elif mode == "cascade":
        end = cascade(run, 0, len(run.segments))[0].end * page_size
        below = zip(flat.starts, flat.starts[1:], strict=False)
        cuts = [(0, end), *((a, b) for a, b in below if a >= end)]
    else:
        size = CHUNK if mode == "node_chunk" else num_slots
        below = zip(flat.starts, flat.starts[1:], strict=False)
        cuts = [cut for a, b in below for cut in _cut(a, b, size)]
    found = [(np.asarray(flat.seen[:, a:b].any(axis=1)), a, b) for a, b in cuts]
    return [one for one in found if one[0].any()]


def _cut(begin: int, end: int, size: int) -> list[tuple[int, int]]:
    return [(at, min(end, at + size)) for at in range(begin, end, size)]


def _reduced(partials: Sequence[_Partial], num_rows: int) -> "torch.Tensor":
    """Put what rows met together: [rows, heads, dim]."""
    import torch

    rows = torch.cat([one.rows for one in partials])
    largest = torch.cat([one.largest for one in partials])
    most = largest.new_full((num_rows, largest.shape[1]), float("-inf"))
    places = rows[:, None].expand_as(largest)
    most = most.scatter_reduce(0, places, largest, "amax")
    weights = torch.exp(largest - most[rows])
    total = torch.zeros_like(most).index_add_(
        0, rows, torch.cat([one.total for one in partials]) * weights
    )
    mixed = torch.cat([one.mixed for one in partials]) * weights[..., None]
    out = mixed.new_zeros((num_rows, *mixed.shape[1:])).index_add_(0, rows, mixed)
    return out / total[..., None]
