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
    "mixtral": ("mixtral", {"sliding_window": 24}),
    "qwen2_moe": ("qwen2_moe", {}),
    "qwen2_moe with dense blocks": (
        "qwen2_moe",
        {"num_hidden_layers": 3, "mlp_only_layers": [0], "norm_topk_prob": True, "qkv_bias": False},
    ),
    "qwen2_moe by steps": (
        "qwen2_moe",
        {"num_hidden_layers": 3, "decoder_sparse_step": 2, "num_experts": 9},
    ),
    "qwen3_moe": ("qwen3_moe", {"num_experts": 16, "num_experts_per_tok": 4}),
    "qwen3_moe normed": ("qwen3_moe", {"norm_topk_prob": True, "mlp_only_layers": [1]}),
    "olmoe": ("olmoe", {}),
    "olmoe unclipped": ("olmoe", {"clip_qkv": None, "norm_topk_prob": True}),
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
