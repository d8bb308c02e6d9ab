"""Tiny models that transformers builds: with several towers, and layers of several kinds."""

import copy
import re
from pathlib import Path
from typing import Any

import torch

SHARED: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "bos_token_id": 0,
    "eos_token_id": [0, 1, 2, 3],
    "pad_token_id": 0,
    "head_dim": 8,
}
EYES: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "image_size": 16,
    "patch_size": 8,
}
EXPERTS: dict[str, Any] = {
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 16,
}
PAIR: dict[str, Any] = {
    "vocab_size": 64,
    "d_model": 32,
    "encoder_layers": 4,
    "decoder_layers": 3,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
}
ROPE = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]}
MIXED = ["sliding_attention", "full_attention", "full_attention", "sliding_attention"]


def text(model_type: str, **other: Any) -> dict[str, Any]:
    return {**SHARED, "model_type": model_type, **other}


def eyes(model_type: str, **other: Any) -> dict[str, Any]:
    return {**EYES, "model_type": model_type, **other}


ZOO: dict[str, tuple[str, dict[str, Any]]] = {
    "gemma3": (
        "Gemma3ForConditionalGeneration",
        {
            "text_config": text("gemma3_text", sliding_window=4, layer_types=MIXED),
            "vision_config": eyes("siglip_vision_model"),
            "mm_tokens_per_image": 4,
        },
    ),
    "llava": (
        "LlavaForConditionalGeneration",
        {
            "text_config": text("llama"),
            "vision_config": eyes("clip_vision_model", projection_dim=16),
        },
    ),
    "qwen3_vl": (
        "Qwen3VLForConditionalGeneration",
        {
            "text_config": text("qwen3_vl_text", rope_parameters=ROPE),
            "vision_config": {
                "depth": 3,
                "hidden_size": 32,
                "intermediate_size": 48,
                "num_heads": 4,
                "out_hidden_size": 32,
                "patch_size": 4,
                "deepstack_visual_indexes": [0, 1],
                "num_position_embeddings": 16,
            },
        },
    ),
    "t5": (
        "T5ForConditionalGeneration",
        {
            "vocab_size": 64,
            "d_model": 32,
            "d_ff": 48,
            "d_kv": 8,
            "num_layers": 4,
            "num_decoder_layers": 3,
            "num_heads": 4,
        },
    ),
    "bart": ("BartForConditionalGeneration", {**PAIR, "max_position_embeddings": 64}),
    "whisper": (
        "WhisperForConditionalGeneration",
        {
            **PAIR,
            "max_source_positions": 16,
            "max_target_positions": 32,
            "num_mel_bins": 8,
            "pad_token_id": 0,
            "bos_token_id": 0,
            "eos_token_id": 0,
            "decoder_start_token_id": 0,
        },
    ),
    "gemma3_text": (
        "Gemma3ForCausalLM",
        {**SHARED, "sliding_window": 4, "layer_types": MIXED},
    ),
    "gemma2": ("Gemma2ForCausalLM", {**SHARED, "sliding_window": 4}),
    "qwen2": (
        "Qwen2ForCausalLM",
        {**SHARED, "use_sliding_window": True, "sliding_window": 4, "max_window_layers": 2},
    ),
    "smollm3": ("SmolLM3ForCausalLM", SHARED),
    "gpt_neo": (
        "GPTNeoForCausalLM",
        {
            "vocab_size": 64,
            "hidden_size": 32,
            "num_layers": 4,
            "num_heads": 4,
            "max_position_embeddings": 64,
            "window_size": 4,
            "attention_types": [[["global", "local"], 2]],
        },
    ),
    "gpt2": (
        "GPT2LMHeadModel",
        {"vocab_size": 64, "n_embd": 32, "n_layer": 4, "n_head": 4, "n_positions": 64},
    ),
    "qwen3_next": (
        "Qwen3NextForCausalLM",
        {
            **SHARED,
            **EXPERTS,
            "linear_num_key_heads": 2,
            "linear_num_value_heads": 4,
            "linear_key_head_dim": 8,
            "linear_value_head_dim": 8,
        },
    ),
    "qwen2_moe": ("Qwen2MoeForCausalLM", {**SHARED, **EXPERTS, "decoder_sparse_step": 2}),
    "mixtral": (
        "MixtralForCausalLM",
        {**SHARED, "num_local_experts": 4, "num_experts_per_tok": 2},
    ),
    "deepseek_v3": (
        "DeepseekV3ForCausalLM",
        {
            **SHARED,
            "n_routed_experts": 4,
            "n_group": 1,
            "topk_group": 1,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 16,
            "first_k_dense_replace": 1,
            "kv_lora_rank": 8,
            "q_lora_rank": 8,
            "qk_rope_head_dim": 4,
            "qk_nope_head_dim": 4,
            "v_head_dim": 8,
            "num_key_value_heads": 4,
            "num_nextn_predict_layers": 0,
        },
    ),
    "jamba": (
        "JambaForCausalLM",
        {
            **SHARED,
            "attn_layer_period": 2,
            "attn_layer_offset": 1,
            "expert_layer_period": 2,
            "expert_layer_offset": 1,
            "num_experts": 4,
            "use_mamba_kernels": False,
            "mamba_d_state": 4,
            "mamba_dt_rank": 4,
        },
    ),
    "mllama": (
        "MllamaForConditionalGeneration",
        {
            "text_config": text(
                "mllama_text_model",
                cross_attention_layers=[1, 3],
                rope_parameters={"rope_type": "default", "rope_theta": 1e4},
            ),
            "vision_config": {
                "hidden_size": 32,
                "intermediate_size": 48,
                "num_hidden_layers": 3,
                "num_global_layers": 2,
                "attention_heads": 4,
                "image_size": 16,
                "patch_size": 8,
                "intermediate_layers_indices": [0, 1],
                "vision_output_dim": 96,
                "max_num_tiles": 1,
                "supported_aspect_ratios": [[1, 1]],
            },
        },
    ),
}
"""`model_type` -> the class and the config."""


def built(model_type: str, seed: int = 0, **changes: Any) -> Any:
    """Return a random model in float32; `changes` are of its language model's config."""
    import transformers
    from transformers import AutoConfig

    name, kept = ZOO[model_type]
    config = copy.deepcopy(kept)
    config.get("text_config", config).update(changes)
    generator = torch.Generator().manual_seed(seed)
    module = getattr(transformers, name)(AutoConfig.for_model(model_type, **config))
    module = module.float().eval()
    with torch.no_grad():
        for _, parameter in sorted(module.named_parameters()):
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(0.15 * noise if parameter.dim() > 1 else parameter + 0.05 * noise)
    return module


def save(model_type: str, folder: Path, seed: int = 0, **changes: Any) -> Path:
    built(model_type, seed, **changes).save_pretrained(folder)
    return folder


def loaded(model_type: str, folder: Path) -> Any:
    """Load a folder as transformers does, and check that it found all it wants and no more."""
    import transformers

    kind = getattr(transformers, ZOO[model_type][0])
    module, report = kind.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    return module.eval()


def logits(module: Any) -> torch.Tensor:
    """Return what a model says to 12 tokens (as an encoder-decoder, to half of them each)."""
    tokens = torch.randint(4, 60, (2, 12), generator=torch.Generator().manual_seed(7))
    with torch.no_grad():
        if module.main_input_name == "input_features":
            sound = torch.linspace(-1, 1, 2 * 8 * 32).reshape(2, 8, 32)
            return module(input_features=sound, decoder_input_ids=tokens).logits
        if module.config.is_encoder_decoder:
            return module(input_ids=tokens[:, :6], decoder_input_ids=tokens[:, 6:]).logits
        return module(input_ids=tokens).logits


def reordered(state: dict[str, Any], stack: str, layers: list[int]) -> dict[str, Any]:
    """Return a module's tensors with the layers of one stack in another order."""
    found = {name: value for name, value in state.items() if not name.startswith(stack)}
    for place, layer in enumerate(layers):
        for name, value in state.items():
            if name.startswith(f"{stack}{layer}."):
                found[re.sub(rf"^({re.escape(stack)})\d+", rf"\g<1>{place}", name)] = value
    return found
