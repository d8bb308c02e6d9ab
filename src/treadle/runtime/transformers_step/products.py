"""The products of attention over one request's gathered context; float32 throughout."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

__all__ = ["attend", "attention_weights"]


def attend(
    query: "torch.Tensor",
    keys: "torch.Tensor",
    values: "torch.Tensor",
    visible: "torch.Tensor | None",
    scale: float,
    softcap: float | None,
) -> "torch.Tensor":
    """Return the attention [heads, rows, dim] of one request; float32 throughout."""
    import torch
    from torch.nn import functional

    heads, rows, _ = query.shape
    kv_heads = keys.shape[0]
    visible = _by_head(visible, heads)
    if rows > 1 and softcap is None:
        groups = heads // kv_heads
        keys, values = keys.repeat_interleave(groups, 0), values.repeat_interleave(groups, 0)
        return functional.scaled_dot_product_attention(
            query[None].float(), keys[None], values[None], attn_mask=visible, scale=scale
        )[0].to(query.dtype)
    scores = _scores(query, keys, visible, scale, softcap).view(kv_heads, -1, keys.shape[1])
    mixed = torch.matmul(torch.softmax(scores, dim=-1), values)
    return mixed.view(heads, rows, -1).to(query.dtype)


def attention_weights(
    query: "torch.Tensor",
    keys: "torch.Tensor",
    visible: "torch.Tensor | None",
    scale: float,
    softcap: float | None,
) -> "torch.Tensor":
    """Return the probabilities [heads, rows, context] by which `attend` mixes values."""
    import torch

    visible = _by_head(visible, query.shape[0])
    return torch.softmax(_scores(query, keys, visible, scale, softcap), dim=-1)


def _by_head(visible: "torch.Tensor | None", heads: int) -> "torch.Tensor | None":
    """Return a mask by KV head as one by query head; one for all heads stays."""
    if visible is None or visible.dim() == 2:
        return visible
    return visible.repeat_interleave(heads // visible.shape[0], 0)


def _scores(
    query: "torch.Tensor",
    keys: "torch.Tensor",
    visible: "torch.Tensor | None",
    scale: float,
    softcap: float | None,
) -> "torch.Tensor":
    """Return scores [heads, rows, context]; -inf where a row does not see."""
    import torch

    heads, rows, dim = query.shape
    grouped = query.reshape(keys.shape[0], -1, dim).float()
    scores = torch.matmul(grouped, keys.transpose(1, 2)).mul_(scale).view(heads, rows, -1)
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    return scores if visible is None else scores.masked_fill(~visible, float("-inf"))
