"""Keys and values on their way into the arrays of a cache, and out of them; float32 outside."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from treadle.runtime.cache.pages import MIDDLE, LayerKeyValues
from treadle.runtime.transformers_step.units import unpack_keys, unpack_values
from treadle.runtime.transformers_step.visibility import EntrySource, tensor

if TYPE_CHECKING:
    import torch

__all__ = ["gather_keys", "gather_values", "opened", "write"]


def write(
    arrays: LayerKeyValues,
    key: "torch.Tensor",
    value: "torch.Tensor",
    written: "torch.Tensor",
    positions: "torch.Tensor",
) -> None:
    """Write entries into slots.

    Args:
        arrays: Of a layer, or of the arena.
        key: [kv_heads, rows, dim]
        value: [kv_heads, rows, dim]
        written: [rows * kv_heads] the slots, of all heads of a row one after the other.
        positions: [rows]
    """
    heads, columns = key.shape[0], arrays.values.shape[-1]
    size = arrays.positions.shape[-1]
    keys, values = tensor(arrays.keys).view(-1, columns, size), tensor(arrays.values)
    new_keys = _rounded(key, arrays.key_scales, keys.dtype, written)
    keys.transpose(1, 2)[written // size, written % size] = new_keys
    new_values = _rounded(value, arrays.value_scales, values.dtype, written)
    values.view(-1, columns).index_copy_(0, written, new_values)
    repeated = positions.repeat_interleave(heads)
    tensor(arrays.positions).view(-1).index_copy_(0, written, repeated)


def _rounded(
    new: "torch.Tensor", scales: Any, dtype: "torch.dtype", written: "torch.Tensor"
) -> "torch.Tensor":
    """Return [rows * kv_heads, columns] as it is stored, and write its scales."""
    import torch

    flat = new.transpose(0, 1).reshape(-1, new.shape[-1]).float()
    if dtype == torch.uint8:
        return _paired(flat, tensor(scales).view(-1), written)
    if scales is not None:
        scale = flat.abs().amax(dim=1) / 127
        tensor(scales).view(-1).index_copy_(0, written, scale)
        flat = (flat / torch.where(scale > 0, scale, 1)[:, None]).round_()
    stored = flat.to(dtype)
    # Infinite scores may come out of a cap as numbers like others; NaN does not.
    return stored.masked_fill_(stored.isinf(), torch.nan) if scales is None else stored


def _paired(
    flat: "torch.Tensor", scales: "torch.Tensor", written: "torch.Tensor"
) -> "torch.Tensor":
    """Return codes of 4 bits [rows, dim / 2], and write the scales of both halves."""
    import torch

    halves = flat.view(len(flat), 2, flat.shape[1] // 2)
    own = (halves.abs().amax(dim=2) / MIDDLE).to(torch.float16)
    own = own.masked_fill_(own.isinf(), torch.nan)
    scales.index_copy_(0, written, own.contiguous().view(torch.float32)[:, 0])
    wide = own.float()[..., None]
    factor = torch.where(wide > 0, 1 / wide, 0)
    codes = (halves * factor + MIDDLE).round_().clamp_(0, 15).nan_to_num_().to(torch.uint8)
    return codes[:, 0] | codes[:, 1] << 4


def opened(stored: "torch.Tensor", scales: "torch.Tensor | None", axis: int) -> "torch.Tensor":
    """Return numbers in float32.

    Args:
        stored: [..., columns, slots] (axis -2), or [..., slots, columns] (axis -1).
        scales: [..., slots] of them; None: they are no codes.
        axis: Where dimensions stand.
    """
    import torch

    if scales is None:
        return stored.float()
    if stored.dtype != torch.uint8:
        return stored.float() * scales.unsqueeze(axis)
    both = scales.contiguous().view(torch.float16).view(*scales.shape, 2).float()
    parts = [
        (half.float() - MIDDLE) * both[..., number].unsqueeze(axis)
        for number, half in enumerate((stored & 15, stored >> 4))
    ]
    return torch.cat(parts, dim=axis)


def gather_keys(source: EntrySource) -> "torch.Tensor":
    """Return a segment's keys [kv_heads, context, dim] in float32, as they are stored."""
    keys, heads = tensor(source.arrays.keys), source.planes.shape[0]
    columns, size = keys.shape[-2:]
    found = keys.reshape(-1, size * columns).index_select(0, source.planes.flatten())
    by_dim = found.view(heads, -1, columns, size).transpose(1, 2).reshape(heads, columns, -1)
    own = _scales(source.arrays.key_scales, source, size)
    wide = opened(by_dim[:, :, : _num_wide(source)], own, -2).transpose(1, 2)
    return _behind(source, unpack_keys, wide)


def gather_values(source: EntrySource) -> "torch.Tensor":
    """Return its values in the same form."""
    values, heads = tensor(source.arrays.values), source.planes.shape[0]
    size, columns = values.shape[-2:]
    found = values.reshape(-1, size * columns).index_select(0, source.planes.flatten())
    own = _scales(source.arrays.value_scales, source, size)
    wide = opened(found.view(heads, -1, columns)[:, : _num_wide(source)], own, -1)
    return _behind(source, unpack_values, wide)


def _num_wide(source: EntrySource) -> int:
    return source.context - source.num_packed


def _behind(
    source: EntrySource, unpack: Callable[..., "torch.Tensor"], wide: "torch.Tensor"
) -> "torch.Tensor":
    """Return numbers [kv_heads, slots, dim] behind those of packed entries."""
    import torch

    if source.packed is None:
        return wide
    own = unpack(source.arrays, source.packed.planes, source.packed.form)
    return torch.cat([own, wide], dim=1)


def _scales(scales: Any, source: EntrySource, size: int) -> "torch.Tensor | None":
    """Return the scales [kv_heads, context] of a segment's entries."""
    if scales is None:
        return None
    found = tensor(scales).view(-1, size).index_select(0, source.planes.flatten())
    return found.view(len(source.planes), -1)[:, : _num_wide(source)]
