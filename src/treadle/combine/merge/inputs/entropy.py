"""Coefficients of task vectors that make the merged model's predictions sure, learned by Adam."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from treadle.combine.merge.inputs.towers import parse_name
from treadle.combine.merge.methods.adamerging import AdaMerging
from treadle.core.progress import steps
from treadle.core.shapes import Float, Tensor

if TYPE_CHECKING:
    import torch

__all__ = ["layer_row", "learned_coefficients"]

Parameters = Mapping[str, "torch.Tensor"]


def layer_row(name: str, num_layers: int) -> int:
    """Return the row of a tensor's coefficients: its layer's, or the last one outside of all."""
    layer = parse_name(name).layer
    return num_layers if layer is None or layer >= num_layers else layer


def learned_coefficients(
    base: Path,
    folders: Sequence[Path],
    tokens: "Sequence[torch.Tensor]",
    num_layers: int,
    method: AdaMerging,
) -> "dict[str, torch.Tensor]":
    """Return "coefficients" [models, layers + 1], and "entropies" [steps] in nats a token.

    The gradient of a coefficient is the product of a tensor's gradient with its task vector, which
    is taken as soon as the tensor's gradient is there. Peak memory is two models more in float32
    than are merged.

    Args:
        base: The base's folder.
        folders: The models'.
        tokens: Of each model's text [windows, seq].
        num_layers: The decoder blocks.
        method: How long and how fast is learned.
    """
    import torch

    from treadle.model import facts
    from treadle.model.load import full

    merged = full(base)
    facts.require_positions(merged.config.to_dict(), tokens[0].shape[1])
    start = {name: p.detach().clone() for name, p in merged.named_parameters()}
    vectors = [
        {name: p.detach().sub_(start[name]) for name, p in full(folder).named_parameters()}
        for folder in folders
    ]
    coefficients = torch.full((len(folders), num_layers + 1), method.first(len(folders)))
    coefficients.grad = torch.zeros_like(coefficients)
    adam = torch.optim.Adam([coefficients], lr=method.learning_rate)
    for name, parameter in merged.named_parameters():
        own = [vector[name] for vector in vectors]
        row = layer_row(name, num_layers)
        parameter.requires_grad_(True)
        parameter.register_post_accumulate_grad_hook(_product(coefficients.grad[:, row], own))
    entropies = []
    with steps("coefficients", method.steps) as bar:
        for step in range(method.steps):
            _fill(merged, start, vectors, coefficients, num_layers)
            coefficients.grad.zero_()
            entropies.append(0.0)
            for windows in tokens:
                row_of_tokens = windows[step % len(windows)][None]
                logits = merged(input_ids=row_of_tokens, use_cache=False).logits
                loss = _entropy(logits) / len(tokens)
                torch.autograd.backward(loss)
                entropies[-1] += float(loss.detach())
            adam.step()
            coefficients.clamp_(0.0, 1.0)
            bar.advance()
    return {"coefficients": coefficients.detach(), "entropies": torch.tensor(entropies)}


def _product(
    gradient: "torch.Tensor", vectors: "Sequence[torch.Tensor]"
) -> "Callable[[torch.Tensor], None]":
    """Return a hook that adds what a tensor's gradient says of its coefficients, and frees it."""

    def add(parameter: "torch.Tensor") -> None:
        if parameter.grad is not None:
            for place, vector in enumerate(vectors):
                gradient[place] += (parameter.grad * vector).sum()
            parameter.grad = None

    return add


def _fill(
    model: "torch.nn.Module",
    start: Parameters,
    vectors: Sequence[Parameters],
    coefficients: "torch.Tensor",
    num_layers: int,
) -> None:
    import torch

    with torch.no_grad():
        for name, parameter in model.named_parameters():
            row = layer_row(name, num_layers)
            parameter.copy_(start[name])
            for vector, own in zip(vectors, coefficients, strict=True):
                parameter.add_(vector[name], alpha=float(own[row]))


def _entropy(logits: Float[Tensor, "batch seq vocab"]) -> Float[Tensor, ""]:
    logs = logits.float().log_softmax(dim=-1)
    return -(logs.exp() * logs).sum(dim=-1).mean()
