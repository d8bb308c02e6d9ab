"""How a model is trained: in which numbers, which of its parameters, and what is kept."""

import re
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from treadle.core.errors import SettingsError, UnsupportedModelError

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["PLAIN", "Dtype", "Training", "adapted", "arranged"]

Dtype = Literal["float32", "bfloat16", "float16"]


class Training(NamedTuple):
    """What changes the memory of a step, beside the model and its batch."""

    dtype: Dtype = "float32"
    """Of parameters, and so of gradients and optimizer states."""
    autocast: Dtype | None = None
    """In which forward pass and activations are, where parameters stay in `dtype`."""
    checkpointing: bool = False
    """Whether each block's activations are made again in the backward pass."""
    lora_rank: int | None = None
    """Rank of the factors that learn beside frozen matrices."""
    learn: str | None = None
    """Regular expression searched in names: of the parameters that learn, or, with a rank, of the
    modules whose matrices get factors."""

    def words(self) -> list[str]:
        """Return what differs from plain training, as words of a graph's name."""
        given = zip(self._fields, self, PLAIN, strict=True)
        return [f"{name} {value}" for name, value, plain in given if value != plain]

    def context(self) -> AbstractContextManager[Any]:  # Any: autocast's own
        """Return the context of the forward pass and the loss."""
        import torch

        if self.autocast is None:
            return nullcontext()
        return torch.autocast("cpu", dtype=getattr(torch, self.autocast))


PLAIN = Training()


def arranged(model: "nn.Module", training: Training) -> "nn.Module":
    """Let only what is asked for learn, and keep only what is asked for.

    Raises:
        SettingsError: Nothing learns, or the expression or the rank cannot be used.
        UnsupportedModelError: The model cannot checkpoint its blocks.
    """
    if training.lora_rank is not None:
        adapted(model, training.lora_rank, training.learn)
    elif training.learn is not None:
        _freeze_others(model, training.learn)
    if training.checkpointing:
        _checkpoint(model)
    return model


def _freeze_others(model: "nn.Module", pattern: str) -> None:
    """Let those parameters learn in whose names `pattern` is found; a tied one has several."""
    expression = _expression(pattern)
    named = list(model.named_parameters(remove_duplicate=False))
    chosen = [parameter for name, parameter in named if expression.search(name)]
    if not chosen:
        raise _nothing(pattern, [name for name, _ in named], "parameters")
    model.requires_grad_(False)
    for parameter in chosen:
        parameter.requires_grad_()


def _checkpoint(model: Any) -> None:  # Any: a model of transformers
    try:
        model.activation_checkpointing_enable({"use_reentrant": False})
    except ValueError as error:
        raise UnsupportedModelError(
            f"{type(model).__name__} cannot checkpoint its blocks; leave checkpointing out, and "
            f"let the plan make values again by --recompute-fraction."
        ) from error


def _expression(pattern: str) -> "re.Pattern[str]":
    try:
        return re.compile(pattern)
    except re.error as error:
        raise SettingsError(
            f"learn = {pattern!r} is no regular expression ({error}); give one that is found in "
            f"the names of what shall learn, such as 'norm' or 'q_proj|v_proj'."
        ) from error


def _nothing(pattern: str, names: list[str], what: str) -> SettingsError:
    return SettingsError(
        f"learn = {pattern!r} is found in no name of the model's {len(names)} {what}, so that "
        f"nothing learns; they are called like '{next(iter(names), '')}'."
    )


def adapted(model: "nn.Module", rank: int, pattern: str | None) -> None:
    """Freeze `model`, and give its matrices factors that learn, as peft does.

    All linear layers get them but the one that makes logits; `pattern` chooses among them. Factors
    are in float32 beside matrices of fewer bits, which is peft's way.

    Raises:
        SettingsError: The rank is below 1, or no linear layer is chosen.
    """
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    if rank < 1:
        raise SettingsError(f"lora_rank = {rank}, expected 1 or more, such as 16.")
    head = getattr(model, "get_output_embeddings", lambda: None)()
    linears = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | Conv1D) and module is not head
    ]
    expression = _expression(pattern or "")
    chosen = [(name, module) for name, module in linears if expression.search(name)]
    if not chosen:
        raise _nothing(pattern or "", [name for name, _ in linears], "linear layers")
    model.requires_grad_(False)
    kind = _adapted_class()
    for name, module in chosen:
        parent, _, own = name.rpartition(".")
        setattr(model.get_submodule(parent), own, kind(module, rank))


def _adapted_class() -> "type[nn.Module]":
    import torch
    from torch import nn

    class AdaptedLinear(nn.Module):
        """A frozen linear layer and two factors."""

        def __init__(self, base: nn.Module, rank: int) -> None:
            super().__init__()
            weight: Any = base.weight
            num_in, num_out = (
                weight.shape if not isinstance(base, nn.Linear) else weight.shape[::-1]
            )
            self.base = base
            self.right = nn.Linear(num_in, rank, bias=False, dtype=torch.float32)
            self.left = nn.Linear(rank, num_out, bias=False, dtype=torch.float32)

        @property
        def weight(self) -> "Tensor":
            """The frozen matrix, where a model reads it beside calling the layer."""
            found: Tensor = self.base.weight  # type: ignore[assignment]
            return found

        @property
        def bias(self) -> "Tensor | None":
            """That of the frozen layer."""
            found: Tensor | None = self.base.bias  # type: ignore[assignment]
            return found

        def forward(self, rows: "Tensor") -> "Tensor":
            """Add the factors' product to the layer's own."""
            made: Tensor = self.base(rows)
            change: Tensor = self.left(self.right(rows.to(self.right.weight.dtype)))
            return (made + change * 2.0).to(made.dtype)

    return AdaptedLinear
