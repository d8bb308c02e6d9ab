"""Packed entries as floats, for the generic step: see `runtime.cache.units` for how they lie."""

from typing import TYPE_CHECKING, Any

from treadle.runtime.cache.units import GROUP, UNIT, UnitForm
from treadle.runtime.transformers_step.visibility import tensor

if TYPE_CHECKING:
    import torch

__all__ = ["unpack_keys", "unpack_values"]


def unpack_keys(arrays: Any, planes: "torch.Tensor", form: UnitForm) -> "torch.Tensor":
    """Return keys [kv_heads, entries, dim] in float32.

    Args:
        arrays: Of the arena.
        planes: [kv_heads, planes of all units]
        form: How units lie in planes.
    """
    codes, scales = _parts(tensor(arrays.keys), planes, form)
    heads, units, dim = *codes.shape[:2], arrays.values.shape[-1]
    numbers = _codes(codes.view(heads, units, dim, -1), form.bits)  # [heads, units, dim, 256]
    groups = UNIT // GROUP
    both = _pairs(scales, groups * dim).view(heads, units, groups, dim, 2)
    scale, minimum = both.repeat_interleave(GROUP, 2).unbind(-1)  # [heads, units, 256, dim]
    return (minimum + scale * numbers.transpose(2, 3)).flatten(1, 2)


def unpack_values(arrays: Any, planes: "torch.Tensor", form: UnitForm) -> "torch.Tensor":
    """Return values in the same form."""
    codes, scales = _parts(tensor(arrays.values), planes, form)
    heads, units, dim = *codes.shape[:2], arrays.values.shape[-1]
    numbers = _codes(codes.view(heads, units, UNIT, -1), form.bits)  # [heads, units, 256, dim]
    both = _pairs(scales, UNIT * dim // GROUP).view(heads, units, UNIT, dim // GROUP, 2)
    scale, minimum = both.repeat_interleave(GROUP, 3).unbind(-1)
    return (minimum + scale * numbers).flatten(1, 2)


def _parts(
    array: "torch.Tensor", planes: "torch.Tensor", form: UnitForm
) -> tuple["torch.Tensor", "torch.Tensor"]:
    """Return bytes [kv_heads, units, bytes] of codes, and of scales."""
    import torch

    heads = len(planes)
    own = array[planes.reshape(heads, -1, form.num_planes)]
    octets = own.contiguous().view(torch.uint8).flatten(3)
    return octets[:, :, :-1].flatten(2), octets[:, :, -1]


def _codes(octets: "torch.Tensor", bits: int) -> "torch.Tensor":
    import torch

    parts = [octets >> shift & (1 << bits) - 1 for shift in range(0, 8, bits)]
    return torch.cat(parts, dim=-1).float()


def _pairs(octets: "torch.Tensor", count: int) -> "torch.Tensor":
    import torch

    return octets[:, :, : 4 * count].contiguous().view(torch.float16).float()
