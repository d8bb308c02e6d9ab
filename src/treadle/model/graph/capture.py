"""From a module to the graph of its whole training step."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from treadle.core.errors import SettingsError
from treadle.model.graph.canonical import canonical
from treadle.model.graph.inputs import Inputs
from treadle.model.graph.schema import Graph
from treadle.model.graph.tasks import task_of
from treadle.model.graph.trace import Binding, Loss, TracedOptimizer, trace_step
from treadle.model.graph.training import PLAIN, Training
from treadle.model.graph.update import OptimizerName, rule_of

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn
    from transformers import PretrainedConfig

__all__ = ["Captured", "capture_model", "capture_step", "own_loss"]


class Captured(NamedTuple):
    """A step as a graph to plan with, and as a module to run."""

    graph: Graph
    module: "torch.fx.GraphModule"
    """Takes the tensors of `bindings`, in order, updates them in place and returns the loss."""
    members: tuple[tuple[str, ...], ...]
    """Of each operator, the nodes of `module` that run as one. Views belong to none: they cost
    nothing, and are taken where they are first read."""
    bindings: tuple[Binding, ...]
    """What the placeholders of `module` stand for, in order."""
    values: dict[str, tuple[int, ...]]
    """Of each node, the values in which its tensors lie; a view's are its base's."""
    notes: tuple[str, ...] = ()
    """How the step differs from the module's eager one."""


def capture_step(
    build: "Callable[[], nn.Module]",
    *,
    inputs: Inputs,
    loss: Loss | None = None,
    optimizer: OptimizerName = "adamw",
    learning_rate: float = 1e-3,
    clip_norm: float | None = None,
    chunked_loss: int | None = None,
    name: str = "step",
) -> Captured:
    """Capture forward, loss, backward and update of any module; nothing is computed.

    Dropout draws stay in program order, and checkpointed blocks draw the same again; a module in
    evaluation mode has none. Experts of transformers' models compute as products in groups, whose
    shapes depend on no data: the same up to rounding, and a note says where that was changed.

    Args:
        build: Makes the module; called under fake tensors, so that it allocates nothing.
        inputs: The batch by keyword, or what makes it: tensors, lists and dicts of them (each is
            then called KEYWORD.PLACE), and settings, which are fixed.
        loss: From the module and the batch to a scalar; by default the `loss` that the module's
            result carries.
        optimizer: adamw (PyTorch's fused kernel, no scratch), adamw_foreach or sgd (momentum 0.9).
        learning_rate: Of the optimizer; its other settings are PyTorch's defaults.
        clip_norm: Clip the norm of all gradients together, which holds every update back until the
            last gradient is there.
        chunked_loss: Of a causal language model without a `loss` of its own: number of chunks into
            which the tokens are cut at the loss, so that the logits are never whole.
        name: Name of the graph.

    Raises:
        UnsupportedModelError: Something cannot be captured; the message names what, and where.
        SettingsError: The optimizer is unknown, nothing is trained, or the loss is no scalar.
    """
    if clip_norm is not None and not clip_norm > 0:
        raise SettingsError(f"clip_norm is {clip_norm}, expected more than 0; leave it out.")
    if chunked_loss is not None:
        if loss is not None:
            raise SettingsError(
                f"chunked_loss = {chunked_loss} stands for a loss of 1 chunk or more; give it or "
                f"`loss`, not both."
            )
        from treadle.model.graph.causal_lm import chunked

        loss = chunked(chunked_loss)
    by = TracedOptimizer(optimizer, rule_of(optimizer), learning_rate, clip_norm)
    traced = trace_step(build, inputs, loss or own_loss, by)
    return Captured(*canonical(traced, name, by), traced.notes)


def own_loss(module: "nn.Module", data: dict[str, Any]) -> "Tensor":  # Any: inputs
    """Return the loss that the module's own result carries.

    Raises:
        SettingsError: It carries none.
    """
    found: Tensor | None = getattr(module(**data), "loss", None)
    if found is None:
        raise SettingsError(
            "The module's result carries no loss; pass `loss`, or inputs with the labels."
        )
    return found


def capture_model(
    model: "str | Path | PretrainedConfig",
    *,
    batch: int,
    seq: int,
    optimizer: OptimizerName = "adamw",
    learning_rate: float = 1e-3,
    clip_norm: float | None = None,
    chunked_loss: int | None = None,
    attention: Literal["auto", "sdpa", "eager"] = "auto",
    training: Training = PLAIN,
) -> Captured:
    """Capture a training step of a model of transformers from its config alone.

    What it is trained for follows from the class that its config names (`tasks.TASKS`). Dropout is
    off.

    Args:
        model: Hugging Face folder, hub id, packaged:smollm2, or a config.
        batch: Rows of token ids, or images.
        seq: Tokens of a row, of the encoder and the decoder alike; images have none.
        optimizer: As in `capture_step`.
        learning_rate: Of the optimizer.
        clip_norm: As in `capture_step`.
        chunked_loss: As in `capture_step`.
        attention: Which of transformers' forms of attention; auto is what it takes by itself.
        training: In which numbers, and what learns.

    Raises:
        CheckpointError: There is no such model.
        UnsupportedModelError: The model cannot be captured, or its loss not chunked.
    """
    from treadle.model.graph.causal_lm import build_model, config_of, loss_of

    config, name = config_of(model, attention)
    task = task_of(config)
    if batch < 1 or (task.has_tokens and seq < 2):
        raise SettingsError(
            f"batch = {batch}, seq = {seq}: expected 1 row or more, of 2 tokens or more, since "
            f"each token but the first is predicted."
        )
    rows = f"batch {batch} seq {seq}" if task.has_tokens else f"batch {batch}"
    return capture_step(
        lambda: build_model(config, training),
        inputs=lambda: task.batch(config, batch, seq),
        loss=loss_of(chunked_loss, training),
        optimizer=optimizer,
        learning_rate=learning_rate,
        clip_norm=clip_norm,
        name=" ".join([name, rows, optimizer, *training.words()]),
    )
