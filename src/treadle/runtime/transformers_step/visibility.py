"""Which cached entries the rows of a request see in a layer, for the generic step."""

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from treadle.runtime.cache.pages import KeyValues, LayerKeyValues
from treadle.runtime.cache.units import UNIT, UnitForm, unit_form
from treadle.runtime.executor import HeadTables, Segment

if TYPE_CHECKING:
    import torch

__all__ = [
    "EntrySource",
    "PackedSource",
    "Window",
    "kept_source",
    "limits",
    "tensor",
    "visible_slots",
]

Window = int | None | tuple[int | None, ...]
"""Of a layer in positions, or of each of its query heads."""
_FOR_EVER = 2**31 - 1


class PackedSource(NamedTuple):
    """Where a segment's packed entries lie, those of slots before all others."""

    planes: "torch.Tensor"
    """[kv_heads, planes of all units] of the arena."""
    form: UnitForm
    first_position: int
    num_entries: int


class EntrySource(NamedTuple):
    """Where a segment's context lies in a layer."""

    arrays: LayerKeyValues
    """Of the layer, or the arena where heads have their own tables."""
    planes: "torch.Tensor"
    """[kv_heads, pages] of these arrays, seen as [pages * kv_heads, ...]."""
    context: int
    """Slots of the longest head."""
    lengths: "torch.Tensor | None"
    """[kv_heads] slots of each head, where heads have their own tables."""
    packed: PackedSource | None = None
    """What comes before the slots in `planes`."""

    @property
    def num_packed(self) -> int:
        """The slots that are not in `planes`."""
        return 0 if self.packed is None else self.packed.num_entries


def tensor(array: Any) -> "torch.Tensor":  # Any: a numpy array, or a tensor on a device
    """Return a tensor that shares the array's memory."""
    import torch

    return torch.from_numpy(array) if isinstance(array, np.ndarray) else array


def kept_source(
    tables: HeadTables, number: int, layer: int, pool: KeyValues, device: "torch.device"
) -> EntrySource:
    """Return where the context of a segment lies whose heads have their own tables.

    Args:
        tables: Of the step.
        number: The segment's place there.
        layer: Of the model.
        pool: The cache.
        device: Where it lies.
    """
    import torch

    first = sum(pool.kv_heads[:layer])
    own = (number, slice(first, first + pool.kv_heads[layer]))
    lengths = torch.from_numpy(tables.lengths[own]).to(device)
    planes = torch.from_numpy(tables.planes[own]).to(device, torch.int64)
    context, packed = int(lengths.max()), None
    units, bits, position = (0, 0, 0) if tables.packed is None else tables.packed[number].tolist()
    if units:
        form = unit_form(bits, pool.dtype, pool.page_size, pool.head_dim)
        own_planes, planes = planes.tensor_split([units * form.num_planes], dim=1)
        packed = PackedSource(own_planes, form, position, units * UNIT)
    num_pages = -(-(context - units * UNIT) // pool.page_size)
    return EntrySource(pool.arena, planes[:, :num_pages], context, lengths, packed)


def visible_slots(
    segment: Segment, positions: "torch.Tensor", source: EntrySource, window: Window
) -> "torch.Tensor | None":
    """Return which slots [rows, context] of a segment its rows see; None: all.

    [kv_heads, rows, context] where heads have their own tables, [heads, rows, context] where they
    have their own windows.

    Args:
        segment: The rows.
        positions: [rows] their places in the text.
        source: Of the layer.
        window: Of the layer or its heads.
    """
    import torch

    rows, lengths = segment.num_rows, source.lengths
    if segment.ancestors is None and rows == 1 and window is None and lengths is None:
        return None
    slot = torch.arange(source.context, device=positions.device)
    # [] or [kv_heads, 1, 1]
    length = torch.tensor(source.context) if lengths is None else lengths[:, None, None]
    if segment.ancestors is None:
        row = torch.arange(rows, device=positions.device)[:, None]
        visible = slot <= length - rows + row
    else:
        visible = _of_tree(segment, slot, length)
    if window is not None:
        held = _held_positions(source)
        ago = positions[:, None] - held[:, None, : source.context]  # [kv_heads, rows, context]
        widths = limits(window, positions.device)
        if isinstance(window, tuple):
            ago = ago.repeat_interleave(len(window) // len(ago), 0)
            if visible.dim() == 3:
                visible = visible.repeat_interleave(len(window) // len(visible), 0)
        elif lengths is None:
            ago, widths = ago[0], widths[0]
        visible = visible & (ago < widths)
    return visible


def _held_positions(source: EntrySource) -> "torch.Tensor":
    """Return the positions [kv_heads, slots] of a segment's entries."""
    import torch

    held = tensor(source.arrays.positions).flatten(0, -2)[source.planes].flatten(1)
    if source.packed is None:
        return held
    first, count = source.packed.first_position, source.packed.num_entries
    packed = torch.arange(first, first + count, dtype=held.dtype, device=held.device)
    return torch.cat([packed.expand(len(held), -1), held], dim=1)


def limits(window: Window, device: "torch.device") -> "torch.Tensor":
    """Return the positions [heads or 1, 1, 1] from which on a row sees no more."""
    import torch

    widths = window if isinstance(window, tuple) else (window,)
    found = [_FOR_EVER if width is None else width for width in widths]
    return torch.tensor(found, device=device)[:, None, None]


def _of_tree(segment: Segment, slot: "torch.Tensor", length: "torch.Tensor") -> "torch.Tensor":
    """Return which slots [..., rows, context] the rows see by prefix and bitmask."""
    import torch

    assert segment.ancestors is not None
    tail = segment.context_length - segment.prefix_length
    octets = np.ascontiguousarray(segment.ancestors).view(np.uint8)
    bits = np.unpackbits(octets, axis=1, count=tail, bitorder="little")
    seen = torch.from_numpy(bits.astype(np.bool_)).to(slot.device)
    behind = (slot - (length - tail)).expand(*length.shape[:-2], len(seen), len(slot))
    found = seen.expand(*behind.shape[:-1], tail).gather(-1, behind.clamp(0, tail - 1))
    return (behind < 0) | (found & (behind < tail))
