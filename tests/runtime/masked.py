"""transformers with a mask of its own for each layer and KV head, in float64: the reference of
texts that dropped entries; not a test itself."""

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

from naive import plain_model

_VISIBLE: list[np.ndarray] = []
"""Of the call that runs: for each layer [kv_heads, rows, slots]."""


def _attend(module, query, key, value, attention_mask, **others):
    """Let the model's own eager attention run with the mask of its KV heads beside the model's."""
    seen = torch.from_numpy(_VISIBLE[module.layer_idx])
    seen = seen.repeat_interleave(query.shape[1] // key.shape[1], 0)[None]
    hidden = torch.zeros(seen.shape, dtype=query.dtype).masked_fill(~seen, float("-inf"))
    mask = hidden if attention_mask is None else attention_mask.to(query.dtype) + hidden
    own = sys.modules[type(module).__module__].eager_attention_forward
    return own(module, query, key, value, mask, **others)


AttentionInterface.register("masked_by_head", _attend)
AttentionMaskInterface.register("masked_by_head", ALL_MASK_ATTENTION_FUNCTIONS["eager"])


def masked_logits(folder: Path, tokens: Sequence[int], visible: Sequence[np.ndarray]) -> np.ndarray:
    """Logits [tokens, vocab] where token i sees slot j in a head if visible[layer][head, i, j]."""
    model = plain_model(folder).double()
    for part in model.modules():
        if hasattr(getattr(part, "config", None), "_attn_implementation"):
            part.config._attn_implementation = "masked_by_head"
    _VISIBLE[:] = visible
    with torch.no_grad():
        return model(input_ids=torch.tensor([list(tokens)])).logits[0].numpy()
