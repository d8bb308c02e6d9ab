"""The optimizers' maths, one call a parameter: what the update operators of a step run."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

from treadle.core.errors import SettingsError
from treadle.core.registry import near
from treadle.core.shapes import Float, Tensor

__all__ = ["RULES", "OptimizerName", "UpdateRule", "adamw", "adamw_foreach", "rule_of", "sgd"]

OptimizerName = Literal["adamw", "adamw_foreach", "sgd"]


class UpdateRule(NamedTuple):
    """How one optimizer updates a parameter."""

    update: Callable[..., None]
    """Called as update(parameter, gradient, *states, step, scale=..., **settings)."""
    states: tuple[str, ...]
    """Names of the states, each of the parameter's shape and dtype, zero at first."""
    settings: dict[str, float]
    """What the update takes beside the learning rate, at PyTorch's defaults."""
    num_scratch: int
    """Temporaries of the parameter's size that it takes while it runs."""


def adamw(
    parameter: Float[Tensor, "*shape"],
    gradient: Float[Tensor, "*shape"],
    exp_avg: Float[Tensor, "*shape"],
    exp_avg_sq: Float[Tensor, "*shape"],
    step: Float[Tensor, ""],
    *,
    scale: Float[Tensor, ""] | None,
    learning_rate: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
) -> None:
    """Apply AdamW by PyTorch's fused kernel, as `torch.optim.AdamW(fused=True)` does.

    `step` counts from 1. A `scale` multiplies the gradient in place before.
    """
    import torch

    if scale is not None:
        gradient.mul_(scale)
    torch.ops.aten._fused_adamw_(
        [parameter],
        [gradient],
        [exp_avg],
        [exp_avg_sq],
        [],
        [step],
        lr=learning_rate,
        beta1=beta1,
        beta2=beta2,
        weight_decay=weight_decay,
        eps=eps,
        amsgrad=False,
        maximize=False,
    )


def adamw_foreach(
    parameter: Float[Tensor, "*shape"],
    gradient: Float[Tensor, "*shape"],
    exp_avg: Float[Tensor, "*shape"],
    exp_avg_sq: Float[Tensor, "*shape"],
    step: Float[Tensor, ""],
    *,
    scale: Float[Tensor, ""] | None,
    learning_rate: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
) -> None:
    """Apply AdamW in separate operations, in the order of `torch.optim.AdamW(foreach=True)`.

    The denominator is one temporary of the parameter's size.
    """
    if scale is not None:
        gradient.mul_(scale)
    count = float(step)
    parameter.mul_(1 - learning_rate * weight_decay)
    exp_avg.lerp_(gradient, 1 - beta1)
    exp_avg_sq.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
    denominator = exp_avg_sq.sqrt()
    denominator.div_((1 - beta2**count) ** 0.5).add_(eps)
    parameter.addcdiv_(exp_avg, denominator, value=-learning_rate / (1 - beta1**count))


def sgd(
    parameter: Float[Tensor, "*shape"],
    gradient: Float[Tensor, "*shape"],
    momentum_buffer: Float[Tensor, "*shape"],
    step: Float[Tensor, ""],
    *,
    scale: Float[Tensor, ""] | None,
    learning_rate: float,
    momentum: float,
) -> None:
    """Apply SGD with momentum: the buffer decays, takes the gradient, and moves the parameter."""
    if scale is not None:
        gradient.mul_(scale)
    momentum_buffer.mul_(momentum).add_(gradient)
    parameter.add_(momentum_buffer, alpha=-learning_rate)


_ADAM: dict[str, float] = {"beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "weight_decay": 1e-2}

RULES: dict[str, UpdateRule] = {
    "adamw": UpdateRule(adamw, ("exp_avg", "exp_avg_sq"), _ADAM, 0),
    "adamw_foreach": UpdateRule(adamw_foreach, ("exp_avg", "exp_avg_sq"), _ADAM, 1),
    "sgd": UpdateRule(sgd, ("momentum_buffer",), {"momentum": 0.9}, 0),
}


def rule_of(name: str) -> UpdateRule:
    """Return the rule called `name`.

    Raises:
        SettingsError: There is none.
    """
    if name not in RULES:
        raise SettingsError(f"Unknown optimizer '{name}'. {near(name, RULES)}")
    return RULES[name]


def writes(target: Any) -> int:  # Any: the target of an fx node
    """Return how many states an update writes beside its parameter; -1 where it is no update."""
    for rule in RULES.values():
        if target is rule.update:
            return len(rule.states)
    return -1
