"""What training lowers: the loss of a batch, and what each of its parts weighs."""

import math
from collections.abc import Callable, Mapping
from numbers import Real
from typing import TYPE_CHECKING, NamedTuple

from treadle.core.errors import DataError, SettingsError
from treadle.model.fit.batches import Batch, num_rows, require_batch, split
from treadle.model.fit.returned import number, said

if TYPE_CHECKING:
    import torch
    from torch import nn

__all__ = ["NEXT_TOKEN", "Objective", "add_gradients", "as_objective", "next_token_loss"]


class Objective(NamedTuple):
    """A loss, and how the parts of a step are put together."""

    loss: "Callable[[nn.Module, Batch], torch.Tensor]"
    """The mean loss of a batch, a scalar with a gradient."""
    weight: Callable[[Batch], float] | None = None
    """What the mean of a part weighs: the number of its tokens that have a loss, so that a step's
    loss is that of a token, however its rows are split. Without it the parts are equal."""


def as_objective(given: object) -> Objective:
    """Return an objective as it is, and a function as the loss of one without weights.

    Raises:
        SettingsError: It is neither, or is made of what cannot be called.
    """
    found = given if isinstance(given, Objective) else Objective(given)  # type: ignore[arg-type]  # checked below
    for name, value in found._asdict().items():
        if not callable(value) and (name != "weight" or value is not None):
            raise SettingsError(
                f"The objective's {name} is {said(value)}, but a function was expected; give "
                f"Objective(loss, weight), or the loss alone, which takes the model and a batch."
            )
    return found


def next_token_loss(model: "nn.Module", batch: Batch) -> "torch.Tensor":
    """Return the mean cross-entropy of every token but the first of each row, in nats.

    Raises:
        DataError: The batch is something else than rows of at least two of the model's ids.
        SettingsError: The model gives no loss.
    """
    _require_tokens(model, batch)
    output = model(input_ids=batch, labels=batch, use_cache=False)
    found: torch.Tensor | None = getattr(output, "loss", None)
    if found is None:
        raise SettingsError(
            f"{type(model).__name__} returned no loss of the labels that it was given; give a "
            f"causal language model, or an objective of your own."
        )
    return found


NEXT_TOKEN = Objective(next_token_loss)


def _require_tokens(model: "nn.Module", batch: Batch) -> None:
    import torch

    is_rows = isinstance(batch, torch.Tensor) and batch.dim() == 2
    if not is_rows or batch.dtype != torch.int64:
        raise DataError(
            f"the batch is {said(batch)}, but the loss of the next token is that of ids, one "
            f"tensor of shape [rows, tokens] and torch.int64; return that alone, or give an "
            f"objective that takes what it is."
        )
    length = batch.shape[1]
    if length < 2:
        raise DataError(
            f"rows of {length} token{'' if length == 1 else 's'} predict nothing, and at least 2 "
            f"were expected; return longer rows."
        )
    embedding = getattr(model, "get_input_embeddings", lambda: None)()
    weight = getattr(embedding, "weight", None)
    low, high = (int(end) for end in torch.aminmax(batch))
    if low < 0 or (weight is not None and high >= len(weight)):
        bound = "" if weight is None else f" and less than {len(weight)}, the embedding's rows,"
        raise DataError(
            f"the ids reach from {low} to {high}, but at least 0{bound} was expected; encode the "
            f"text with the tokenizer of this model, or give the model more rows."
        )


def add_gradients(
    model: "nn.Module", batch: Batch, objective: Objective, num_parts: int, step: int
) -> float:
    """Add up the gradients of a step, part by part, and return its mean loss.

    Raises:
        DataError: A batch cannot be used, a loss is not finite, or no token has one; the step and
            its rows are named.
        SettingsError: The rows cannot be split into so many parts, or what the objective returned
            is neither a loss nor a weight.
    """
    require_batch(batch, step)
    parts = split(batch, num_parts, may_differ=objective.weight is not None)
    shares = _shares(parts, objective, step)
    total, first = 0.0, 0
    for place, (part, share) in enumerate(zip(parts, shares, strict=True), 1):
        last = first + num_rows(part)
        rows = f"rows {first} to {last - 1}"
        if share != 0.0:
            where = f"part {place} of {len(parts)}" if isinstance(batch, list) else rows
            loss = _loss(model, part, objective, f"step {step}, {where}")
            # Without weights divided, as the mean of a whole step is, and not multiplied.
            loss = loss / len(parts) if objective.weight is None else loss * share
            loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
            total += float(loss.detach())
        first = last
    return total


def _shares(parts: list[Batch], objective: Objective, step: int) -> list[float]:
    if objective.weight is None:
        return [1 / len(parts)] * len(parts)
    weights = [_weight(objective.weight(part), step) for part in parts]
    if not sum(weights):
        raise DataError(
            f"No token of step {step} has a loss (its parts weigh {weights}); leave out rows that "
            f"have nothing to learn from, or give more rows a step."
        )
    return [weight / sum(weights) for weight in weights]


def _weight(found: object, step: int) -> float:
    weight = number(found)
    if weight is None or not 0 <= weight < math.inf:
        raise SettingsError(
            f"The objective weighs a part of step {step} by "
            f"{said(found) if weight is None else weight}, but a finite number of at least 0 was "
            f"expected; return how many tokens of the part have a loss."
        )
    return weight


def _loss(model: "nn.Module", part: Batch, objective: Objective, where: str) -> "torch.Tensor":
    import torch

    try:
        loss = objective.loss(model, part)
    except DataError as error:
        raise DataError(f"At {where}: {error}") from error
    is_tensor = isinstance(loss, torch.Tensor)
    if not is_tensor or loss.dim() or not loss.requires_grad:
        gradient = f" with {'a' if loss.requires_grad else 'no'} gradient" if is_tensor else ""
        raise SettingsError(
            f"The objective returned {said(loss)}{gradient} for {where}, but a scalar tensor that "
            f"depends on what learns was expected; {_mend(loss)}."
        )
    if not math.isfinite(float(loss.detach())):
        raise DataError(
            f"The loss is {float(loss.detach())} at {where}; lower the learning rate, or look for "
            f"damaged data."
        )
    return loss


def _mend(found: object) -> str:
    """Return what to return in the place of what is no loss."""
    import torch

    if isinstance(found, torch.Tensor):
        if found.requires_grad:
            return "return a mean over tokens"
        return (
            "let parameters learn that it is made of, and make it of the model's output without "
            "detach() and no_grad()"
        )
    if hasattr(found, "loss"):
        missing = "hand the model labels, and " if found.loss is None else ""
        return f"{missing}return output.loss"
    if isinstance(found, Mapping | tuple | list):
        return "return the one of its parts that is the loss"
    if isinstance(found, Real):
        return "return the tensor itself, without item() or float()"
    return "end the function with `return loss`"
