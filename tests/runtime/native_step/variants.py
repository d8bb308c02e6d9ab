"""Tiny models of every variant that the native step computes; not a test itself."""

from pathlib import Path
from typing import Any

import torch

from treadle.core.seed import torch_stream
from treadle.model import tiny

VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "phi3": ("phi3", {}),
    "phi3 turned in part": ("phi3", {"partial_rotary_factor": 0.5, "sliding_window": 24}),
    "llama with biases": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "smollm3": ("smollm3", {"attention_bias": True, "mlp_bias": True}),
    "smollm3 that slides": ("smollm3", {"use_sliding_window": True, "sliding_window": 24}),
    "gpt_neox": ("gpt_neox", {}),
    "gpt_neox one after another": (
        "gpt_neox",
        {"use_parallel_residual": False, "hidden_act": "gelu_new", "tie_word_embeddings": True},
    ),
    "gpt_neox without biases": ("gpt_neox", {"attention_bias": False, "hidden_act": "quick_gelu"}),
    "gpt2": ("gpt2", {}),
    "gpt2 scaled by layers": (
        "gpt2",
        {"scale_attn_by_inverse_layer_idx": True, "n_inner": 96, "activation_function": "relu"},
    ),
    "opt": ("opt", {}),
    "opt without biases": ("opt", {"enable_bias": False, "activation_function": "gelu"}),
}


def build(name: str, folder: Path, is_stacked: bool = False) -> Path:
    """Write a variant whose norms are not ones, so that a norm left out shows."""
    model_type, overrides = VARIANTS[name]
    model: Any = tiny.model(model_type, **overrides)
    with torch.no_grad():
        for own, parameter in model.named_parameters():
            if parameter.dim() == 1 and own.endswith("weight"):
                parameter.uniform_(0.5, 1.5, generator=torch_stream(1, own))
    model.save_pretrained(folder, save_original_format=not is_stacked)
    tiny.tokenizer(folder)
    return folder
