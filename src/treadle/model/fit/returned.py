"""What a caller's functions return: said in words, and told from a number."""

from collections.abc import Sized
from numbers import Real

__all__ = ["number", "said"]


def number(value: object) -> float | None:
    """Return a number, or a tensor that holds nothing else, as a float; None for all else."""
    import torch

    if isinstance(value, Real) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, torch.Tensor) or value.dim() or value.is_complex():
        return None
    return None if value.dtype == torch.bool else float(value)


def said(value: object) -> str:
    """Return what a value is, for an error message: never longer than a line."""
    import torch

    if isinstance(value, torch.Tensor):
        return f"a tensor of shape {list(value.shape)} and {value.dtype}"
    if value is None:
        return "None"
    kind = type(value).__name__
    kind = f"{'an' if kind[0] in 'aeiouAEIOU' else 'a'} {kind}"
    if isinstance(value, Real):
        return f"{kind} ({value!r})"
    return f"{kind} of length {len(value)}" if isinstance(value, Sized) else kind
