"""Token losses of any model, one decoder block in memory at a time."""

from treadle.core.shapes import Float, Int, Tensor
from treadle.model.layers import LayeredModel

__all__ = ["hidden_states", "token_losses"]


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

    Rows may end in padding: attention is causal, so what stands behind a token does not change its
    loss.
    """
    import torch
    from torch.nn import functional

    found = []
    for tokens, hidden in zip(batches, hidden_states(model, batches), strict=True):
        losses = torch.empty(tokens.shape[0], tokens.shape[1] - 1)
        for row in range(tokens.shape[0]):
            # One row at a time: logits of [seq, vocab] are the largest tensor of an evaluation.
            logits = model.logits(tokens[row : row + 1], hidden[row : row + 1])[0, :-1].float()
            losses[row] = functional.cross_entropy(logits, tokens[row, 1:], reduction="none")
        found.append(losses)
    return found
