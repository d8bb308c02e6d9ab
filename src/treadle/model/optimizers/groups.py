"""AdamW's parameter groups: what decays and what does not."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from treadle.model.optimizers.base import RATE_FRACTION

if TYPE_CHECKING:
    import torch
    from torch import nn

__all__ = ["decayed_adamw"]


def decayed_adamw(
    parameters: "Sequence[nn.Parameter]",
    weight_decay: float,
    betas: tuple[float, float],
    epsilon: float,
    rate_fraction: float = 1.0,
) -> "torch.optim.AdamW":
    """Return torch's AdamW over `parameters`, of which those with two or more axes decay."""
    import torch

    matrices = [p for p in parameters if p.dim() > 1]
    vectors = [p for p in parameters if p.dim() < 2]
    groups: list[dict[str, Any]] = [  # Any: settings of a group
        {"params": some, "weight_decay": decay, RATE_FRACTION: rate_fraction}
        for some, decay in ((matrices, weight_decay), (vectors, 0.0))
        if some
    ]
    # The fused kernel has no temporaries, and goes over the weights once.
    return torch.optim.AdamW(groups, betas=betas, eps=epsilon, fused=True)
