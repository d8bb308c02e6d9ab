"""Cross-entropy whose logits are never whole."""

from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any

from treadle.core.shapes import Float, Int, Tensor

if TYPE_CHECKING:
    import torch

__all__ = ["chunked_cross_entropy"]


def chunked_cross_entropy(
    hidden: Float[Tensor, "tokens dim"],
    weight: Float[Tensor, "vocab dim"],
    labels: Int[Tensor, "tokens"],
    num_chunks: int,
) -> Float[Tensor, ""]:
    """Return the mean of -log softmax(hidden @ weight.T)[label], chunk by chunk of tokens.

    A chunk's logits become its gradients before the next chunk's logits are made, so that nothing
    is computed twice: the matrix products are those of the plain loss. What lives from the loss to
    the backward pass is the gradient of `hidden` and of `weight`, in place of two tensors of
    [tokens, vocab].
    """
    apply: Callable[..., Tensor] = _function().apply
    return apply(hidden, weight, labels, min(num_chunks, len(hidden)))


@cache
def _function() -> "type[torch.autograd.Function]":
    import torch

    class ChunkedCrossEntropy(torch.autograd.Function):
        """Computes both gradients with the loss, and scales them in the backward pass."""

        @staticmethod
        def forward(ctx: Any, hidden: Any, weight: Any, labels: Any, num_chunks: int) -> Any:
            """Return the loss. (Any: autograd's own signature)."""
            loss, hidden_gradient, weight_gradient = _loss_and_gradients(
                hidden, weight, labels, num_chunks
            )
            ctx.save_for_backward(hidden_gradient, weight_gradient)
            return loss

        @staticmethod
        def backward(ctx: Any, gradient: Any) -> Any:
            """Return the saved gradients, times the loss's, in place."""
            hidden_gradient, weight_gradient = ctx.saved_tensors
            return hidden_gradient.mul_(gradient), weight_gradient.mul_(gradient), None, None

    return ChunkedCrossEntropy


def _loss_and_gradients(
    hidden: Float[Tensor, "tokens dim"],
    weight: Float[Tensor, "vocab dim"],
    labels: Int[Tensor, "tokens"],
    num_chunks: int,
) -> tuple[Float[Tensor, ""], Float[Tensor, "tokens dim"], Float[Tensor, "vocab dim"]]:
    import torch

    losses, gradients = [], []
    weight_gradient = torch.zeros_like(weight)
    for rows, chosen in zip(hidden.chunk(num_chunks), labels.chunk(num_chunks), strict=True):
        loss, slope = _loss_and_slope(rows, weight, chosen[:, None], len(labels))
        losses.append(loss)
        gradients.append(torch.mm(slope, weight))
        weight_gradient.addmm_(slope.t(), rows)
        del slope  # before the next chunk's is made
    return torch.stack(losses).sum() / len(labels), torch.cat(gradients), weight_gradient


def _loss_and_slope(
    rows: Float[Tensor, "rows dim"],
    weight: Float[Tensor, "vocab dim"],
    labels: Int[Tensor, "rows 1"],
    num_tokens: int,
) -> tuple[Float[Tensor, ""], Float[Tensor, "rows vocab"]]:
    """Return a chunk's summed loss, and the mean loss's derivative by the chunk's logits.

    The derivative, (softmax - one at the label) / tokens, is written over the scores.
    """
    import torch

    scores = torch.log_softmax(torch.mm(rows, weight.t()), dim=-1, dtype=torch.float32)
    loss = -scores.gather(1, labels).sum()
    ones = torch.ones_like(labels, dtype=torch.float32)
    slope = scores.exp_().scatter_add_(1, labels, -ones).div_(num_tokens)
    return loss, slope.to(rows.dtype)
