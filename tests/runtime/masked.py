"""transformers with a mask of its own for each layer and KV head, in float64: the reference of
texts that dropped entries; not a test itself."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

from naive import plain_model

_VISIBLE: list[np.ndarray] = []
"""Of the call that runs: for each layer [kv_heads or heads, rows, slots]."""
_WEIGHTS: list[np.ndarray] = []
"""What it gave: for each layer [heads, rows, slots]."""


def _attend(module, query, key, value, attention_mask, **others):
    """Let the model's own eager attention run with a mask of its heads beside the model's."""
    seen = torch.from_numpy(_VISIBLE[module.layer_idx])
    seen = seen.repeat_interleave(query.shape[1] // len(seen), 0)[None]
    hidden = torch.zeros(seen.shape, dtype=query.dtype).masked_fill(~seen, float("-inf"))
    mask = hidden if attention_mask is None else attention_mask.to(query.dtype) + hidden
    own = sys.modules[type(module).__module__].eager_attention_forward
    mixed, weights = own(module, query, key, value, mask, **others)
    _WEIGHTS.append(weights[0].numpy())
    return mixed, weights


AttentionInterface.register("masked_by_head", _attend)
AttentionMaskInterface.register("masked_by_head", ALL_MASK_ATTENTION_FUNCTIONS["eager"])


class Masked(NamedTuple):
    logits: np.ndarray
    """[tokens, vocab]"""
    weights: list[np.ndarray]
    """Of each layer [heads, tokens, slots]."""
    states: np.ndarray
    """[layers + 1, tokens, hidden] before each block, and after the last one."""


def masked_logits(folder: Path, tokens: Sequence[int], visible: Sequence[np.ndarray]) -> np.ndarray:
    """Logits [tokens, vocab] where token i sees slot j in a head if visible[layer][head, i, j]."""
    return masked(folder, tokens, visible).logits


def masked(
    folder: Path, tokens: Sequence[int], visible: Sequence[np.ndarray], has_own_windows: bool = True
) -> Masked:
    """The same with all that happens inside; without the model's windows if so asked."""
    model = plain_model(folder).double()
    for part in model.modules():
        if hasattr(getattr(part, "config", None), "_attn_implementation"):
            part.config._attn_implementation = "masked_by_head"
        if not has_own_windows and hasattr(getattr(part, "config", None), "sliding_window"):
            part.config.sliding_window = 10**6
    _VISIBLE[:], _WEIGHTS[:] = visible, []
    states: list[np.ndarray] = []
    layers = model.get_submodule(model.base_model_prefix).layers
    for layer in layers:
        layer.register_forward_pre_hook(lambda _, args: states.append(args[0][0].numpy()))
    layers[-1].register_forward_hook(
        lambda _, args, out: states.append((out if torch.is_tensor(out) else out[0])[0].numpy())
    )
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([list(tokens)])).logits[0].numpy()
    return Masked(logits, list(_WEIGHTS), np.stack(states))


def causal(count: int, window: int | None = None) -> np.ndarray:
    """Which of `count` tokens [tokens, tokens] a token sees."""
    ago = np.arange(count)[:, None] - np.arange(count)
    return (ago >= 0) & (ago < (window or count))
