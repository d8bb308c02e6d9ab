"""What training lowers: the loss of a batch, and what each of its parts weighs."""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from treadle.core.errors import DataError, SettingsError
from treadle.core.shapes import Int, Tensor
from treadle.model.fit.batches import Batch, num_rows, split

if TYPE_CHECKING:
    import torch
    from torch import nn

__all__ = ["NEXT_TOKEN", "Objective", "add_gradients", "next_token_loss"]


class Objective(NamedTuple):
    """A loss, and how the parts of a step are put together."""

    loss: "Callable[[nn.Module, Batch], torch.Tensor]"
    """The mean loss of a batch, a scalar with a gradient."""
    weight: Callable[[Batch], float] | None = None
    """What the mean of a part weighs: the number of its tokens that have a loss, so that a step's
    loss is that of a token, however its rows are split. Without it the parts are equal."""


def next_token_loss(model: "nn.Module", tokens: Int[Tensor, "rows seq"]) -> "torch.Tensor":
    """Return the mean cross-entropy of every token but the first of each row, in nats."""
    found: torch.Tensor = model(input_ids=tokens, labels=tokens, use_cache=False).loss
    return found


NEXT_TOKEN = Objective(next_token_loss)


def add_gradients(
    model: "nn.Module", batch: Batch, objective: Objective, num_parts: int, step: int
) -> float:
    """Add up the gradients of a step, part by part, and return its mean loss.

    Raises:
        DataError: A loss is no number, or no token has one; the step and its rows are named.
        SettingsError: The rows cannot be split into so many parts.
    """
    parts = split(batch, num_parts, may_differ=objective.weight is not None)
    shares = _shares(parts, objective, step)
    total, first = 0.0, 0
    for part, share in zip(parts, shares, strict=True):
        last = first + num_rows(part)
        if share != 0.0:
            loss = objective.loss(model, part)
            # Without weights divided, as the mean of a whole step is, and not multiplied.
            loss = loss / num_parts if objective.weight is None else loss * share
            _require_loss(loss, f"step {step}, rows {first} to {last - 1}")
            loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
            total += float(loss.detach())
        first = last
    return total


def _shares(parts: list[Batch], objective: Objective, step: int) -> list[float]:
    if objective.weight is None:
        return [1 / len(parts)] * len(parts)
    weights = [float(objective.weight(part)) for part in parts]
    if not sum(weights) > 0 or min(weights) < 0:
        raise DataError(
            f"No token of step {step} has a loss (its parts weigh {weights}); leave out rows that "
            f"have nothing to learn from, or give more rows a step."
        )
    return [weight / sum(weights) for weight in weights]


def _require_loss(loss: "torch.Tensor", where: str) -> None:
    if loss.dim() or not loss.requires_grad:
        raise SettingsError(
            f"The loss of {where} has shape {list(loss.shape)} and "
            f"{'a' if loss.requires_grad else 'no'} gradient, but a scalar that depends on what "
            f"learns was expected; return a mean over tokens, and let parameters learn that it "
            f"is made of."
        )
    if not math.isfinite(float(loss.detach())):
        raise DataError(
            f"The loss is {float(loss.detach())} at {where}; lower the learning rate, or look for "
            f"damaged data."
        )
