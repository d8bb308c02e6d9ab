"""Token losses of any model: of a whole one in memory, or one decoder block at a time."""

from functools import cache
from typing import TYPE_CHECKING, Any

from treadle.core.shapes import Float, Int, Tensor
from treadle.model import facts
from treadle.model.layers import LayeredModel

if TYPE_CHECKING:
    import torch
    from torch import nn

__all__ = [
    "hidden_states",
    "in_full",
    "losses_of_rows",
    "sums_by_document",
    "target_log_probs",
    "token_losses",
]


def hidden_states(
    model: LayeredModel, batches: list[Int[Tensor, "_batch _seq"]]
) -> list[Float[Tensor, "_batch _seq _hidden"]]:
    """Return the last block's output for each of `batches`; every block is loaded once."""
    hidden = [model.embed(tokens) for tokens in batches]
    for layer, block in model.visit("evaluate"):
        for values in hidden:
            model.run(block, layer, values)
    return hidden


def token_losses(
    model: LayeredModel, batches: list[Int[Tensor, "_batch _seq"]]
) -> list[Float[Tensor, "_batch _predicted"]]:
    """Return -log p of every token but the first of each row, in nats; softmax in float32.

    The last token of a row is only foreseen, so it is not run. Rows may end in padding: attention
    is causal, so what stands behind a token does not change its loss; but rows whose texts are of
    different regimes (the model's `rope_lengths`) must stand in batches of their own.

    Raises:
        SettingsError: The model has fewer positions than a row has tokens.
    """
    import torch

    found = []
    for tokens in batches:
        facts.require_positions(model.config, tokens.shape[1])
    read = [tokens[:, : max(1, tokens.shape[1] - 1)] for tokens in batches]
    for tokens, inputs, hidden in zip(batches, read, hidden_states(model, read), strict=True):
        losses = torch.empty(tokens.shape[0], tokens.shape[1] - 1)
        for row in range(tokens.shape[0]):
            # One row at a time: logits of [seq, vocab] are the largest tensor of an evaluation.
            logits = model.logits(inputs[row : row + 1], hidden[row : row + 1])[0].float()
            following = tokens[row, 1:]
            # Not cross_entropy, whose mean over 49k words is too low by 2e-6 of itself.
            losses[row] = -target_log_probs(logits[: len(following)], following)
        found.append(losses)
    return found


def losses_of_rows(
    model: "nn.Module", tokens: Int[Tensor, "rows seq"]
) -> Float[Tensor, "rows _predicted"]:
    """Return -log p of every token but the first of each row, in nats, by a model in memory.

    The logits of all rows are in memory at once; the softmax is taken in their dtype.
    """
    import torch
    from torch.nn import functional

    with torch.no_grad():
        logits = model(input_ids=tokens[:, :-1], use_cache=False).logits
    return functional.cross_entropy(logits.transpose(1, 2), tokens[:, 1:], reduction="none")


def target_log_probs(
    logits: Float[Tensor, "places vocab"], targets: Int[Tensor, "places"]
) -> Float[Tensor, "places"]:
    """Return log p of each target, in nats, with a gradient; softmax in float32.

    In memory are the logits and one more tensor of their size, forward and backward together: what
    plain operations would keep beside it is made again in its place.
    """
    found: torch.Tensor = _target_log_probs()(in_full(logits), targets)
    return found


def in_full(logits: "torch.Tensor") -> "torch.Tensor":
    """Return logits in float32 where they have fewer bits."""
    return logits if logits.itemsize >= 4 else logits.float()


@cache
def _target_log_probs() -> Any:  # Any: torch leaves `apply` untyped
    import torch

    class TargetLogProbs(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
            # A log_softmax in float32 is off by 1e-5 nats where there are many words; this is not.
            whole = logits.logsumexp(dim=-1, keepdim=True)
            if ctx.needs_input_grad[0]:
                ctx.save_for_backward((logits - whole).exp_(), targets)
            return (logits.gather(1, targets[:, None]) - whole)[:, 0]

        @staticmethod
        def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
            probs, targets = ctx.saved_tensors
            # d log p_t / d logit_v = [v = t] - p_v; the place of p is ours alone.
            probs.mul_(-gradient[:, None])
            probs.scatter_add_(1, targets[:, None], gradient[:, None])
            return probs, None

    return TargetLogProbs.apply


def sums_by_document(
    values: Float[Tensor, "places"], documents: Int[Tensor, "places"], num_documents: int
) -> Float[Tensor, "documents"]:
    """Return the sum of each document's values."""
    return values.new_zeros(num_documents).index_add(0, documents, values)
