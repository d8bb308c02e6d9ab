"""Keys and values on their way into the arrays of a cache, and out of them; float32 outside."""

from typing import TYPE_CHECKING, Any

from treadle.runtime.cache.pages import MIDDLE, LayerKeyValues
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
    """Return [rows * kv_heads, dim] as it is stored, and write its scales."""
    import torch

    flat = new.transpose(0, 1).reshape(-1, new.shape[-1]).float()
    if scales is not None:
        is_paired = dtype == torch.uint8
        scale = flat.abs().amax(dim=1) / (MIDDLE if is_paired else 127)
        tensor(scales).view(-1).index_copy_(0, written, scale)
        flat = flat / torch.where(scale > 0, scale, 1)[:, None]
        if is_paired:
            low, high = (flat + MIDDLE).round_().clamp_(0, 15).to(dtype).chunk(2, dim=1)
            return low | high << 4
        flat = flat.round_()
    stored = flat.to(dtype)
    # Infinite scores may come out of a cap as numbers like others; NaN does not.
    return stored.masked_fill_(stored.isinf(), torch.nan) if scales is None else stored


def opened(stored: "torch.Tensor", axis: int) -> "torch.Tensor":
    """Return numbers in units of their scales; dimensions that share a byte stand along `axis`."""
    import torch

    if stored.dtype != torch.uint8:
        return stored.float()
    return torch.cat([stored & 15, stored >> 4], dim=axis).float() - MIDDLE


def gather_keys(source: EntrySource) -> "torch.Tensor":
    """Return a segment's keys [kv_heads, context, dim] in float32."""
    keys, heads = tensor(source.arrays.keys), source.planes.shape[0]
    dim, size = keys.shape[-2:]
    found = keys.reshape(-1, size * dim).index_select(0, source.planes.flatten())
    by_dim = found.view(heads, -1, dim, size).transpose(1, 2).reshape(heads, dim, -1)
    found = opened(by_dim[:, :, : source.context].transpose(1, 2), -1)
    return _scaled(found, source.arrays.key_scales, source, size)


def gather_values(source: EntrySource) -> "torch.Tensor":
    """Return its values in the same form."""
    values, heads = tensor(source.arrays.values), source.planes.shape[0]
    size, dim = values.shape[-2:]
    found = values.reshape(-1, size * dim).index_select(0, source.planes.flatten())
    found = opened(found.view(heads, -1, dim)[:, : source.context], -1)
    return _scaled(found, source.arrays.value_scales, source, size)


def _scaled(found: "torch.Tensor", scales: Any, source: EntrySource, size: int) -> "torch.Tensor":
    if scales is None:
        return found
    own = tensor(scales).view(-1, size).index_select(0, source.planes.flatten())
    return found * own.view(len(found), -1, 1)[:, : source.context]
