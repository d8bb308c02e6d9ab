"""Writes tiny models beyond the llamas as GGUF files, as llama.cpp's converter would; no test."""

import re
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from safetensors.numpy import load_file

from gguf_models import _stored, _write_tokenizer, interleaved
from naive import config_of

WIDTHS = {"moe_intermediate_size": 64}
FAMILIES: dict[str, dict[str, Any]] = {
    "mixtral": {"num_hidden_layers": 2},
    "qwen2_moe": {"norm_topk_prob": False, **WIDTHS, "shared_expert_intermediate_size": 64},
    "qwen3_moe": {"norm_topk_prob": True, **WIDTHS},
    "olmoe": {"clip_qkv": None},
    "phi3": {},
    "gpt2": {},
    "gpt_neox": {},
}
"""Type -> what a GGUF file can say of its tiny model."""
ARCHITECTURES = {
    "mixtral": "llama",
    "qwen2_moe": "qwen2moe",
    "qwen3_moe": "qwen3moe",
    "gpt_neox": "gptneox",
}
NAMES = {
    r"model\.embed_tokens|transformer\.wte|gpt_neox\.embed_in": "token_embd",
    r"transformer\.wpe": "position_embd",
    r"model\.norm|transformer\.ln_f|gpt_neox\.final_layer_norm": "output_norm",
    r"lm_head|embed_out": "output",
    r"self_attn\.(q|k|v)_proj": r"attn_\1",
    r"self_attn\.(q|k)_norm": r"attn_\1_norm",
    r"self_attn\.o_proj|attn\.c_proj|attention\.dense": "attn_output",
    r"self_attn\.qkv_proj|attn\.c_attn|attention\.query_key_value": "attn_qkv",
    r"input_layernorm|ln_1": "attn_norm",
    r"post_attention_layernorm|ln_2": "ffn_norm",
    r"mlp\.gate_up_proj|mlp\.c_fc|mlp\.dense_h_to_4h": "ffn_up",
    r"mlp\.c_proj|mlp\.dense_4h_to_h": "ffn_down",
    r"(?:mlp|block_sparse_moe)\.gate": "ffn_gate_inp",
    r"mlp\.shared_expert_gate": "ffn_gate_inp_shexp",
    r"mlp\.(gate|up|down)_proj": r"ffn_\1",
    r"mlp\.shared_expert\.(\w+)_proj": r"ffn_\1_shexp",
    r"mlp\.experts\.\d+\.(\w+)_proj": r"ffn_\1_exps",
    r"block_sparse_moe\.experts\.\d+\.w1": "ffn_gate_exps",
    r"block_sparse_moe\.experts\.\d+\.w2": "ffn_down_exps",
    r"block_sparse_moe\.experts\.\d+\.w3": "ffn_up_exps",
}
"""What stands in the folder -> how llama.cpp calls it."""


def family_to_gguf(
    folder: Path,
    out: Path,
    kind: str = "F32",
    extra: dict[str, np.ndarray] | None = None,
    is_old: bool = False,
    **settings: Any,
) -> None:
    """Write `folder`.

    Args:
        extra: Tensors of rope.
        is_old: Whether experts are tensors of their own, as before they were stacked.
        settings: Its settings that are others, by key; None: it lacks this one.
    """
    config = config_of(folder)
    model_type = config["model_type"]
    architecture = ARCHITECTURES.get(model_type, model_type)
    writer = gguf.GGUFWriter(out, architecture)
    _write_tokenizer(writer, folder)
    said = {f"{architecture}.{key}": value for key, value in _settings(config).items()} | settings
    for key, value in said.items():
        if value is not None:
            writer.add_key_value(key, value, gguf.GGUFValueType.get_type(value))
    for name, values in _tensors(folder, config, is_old).items():
        own = (
            kind if values.ndim > 1 and "gate_inp" not in name and "position" not in name else "F32"
        )
        flat = _stored(values.reshape(-1, values.shape[-1]), own)
        stored = flat.reshape(*values.shape[:-1], -1)
        writer.add_tensor(name, stored, raw_dtype=gguf.GGMLQuantizationType[own])
    for name, values in (extra or {}).items():
        writer.add_tensor(name, values.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _tensors(folder: Path, config: dict[str, Any], is_old: bool) -> dict[str, np.ndarray]:
    made: dict[str, np.ndarray] = {}
    stacks: dict[str, dict[int, np.ndarray]] = {}
    for name, values in load_file(folder / "model.safetensors").items():
        layer = re.search(r"\.(?:layers|h)\.(\d+)\.", name)
        stem, _, leaf = (name[layer.end() :] if layer else name).rpartition(".")
        (pattern,) = [known for known in NAMES if re.fullmatch(known, stem)]
        own = re.sub(pattern, NAMES[pattern], stem)
        own = f"blk.{layer[1]}.{own}.{leaf}" if layer else f"{own}.{leaf}"
        values = _reordered(config, stem, values)
        expert = re.search(r"\.experts\.(\d+)\.", name)
        if expert and is_old:
            made[own.replace("_exps.", f".{expert[1]}.")] = values
        elif expert:
            stacks.setdefault(own, {})[int(expert[1])] = values
        else:
            made[own] = np.ascontiguousarray(values)
    for own, stack in stacks.items():
        made[own] = np.stack([stack[expert] for expert in sorted(stack)])
    return made


def _reordered(config: dict[str, Any], stem: str, values: np.ndarray) -> np.ndarray:
    if config["model_type"] in ("llama", "mixtral") and stem.endswith(("q_proj", "k_proj")):
        key = "num_attention_heads" if "q_proj" in stem else "num_key_value_heads"
        return interleaved(values, config[key])
    if (
        config["model_type"] == "gpt2"
        and values.ndim == 2
        and "." in stem
        and "transformer" not in stem
    ):
        return values.T
    if stem.endswith("query_key_value"):  # head by head; the file has all queries first
        heads, dim = config["num_attention_heads"], config["hidden_size"]
        width = dim // heads
        rows = [
            values[(3 * head + part) * width + place]
            for part in range(3)
            for head in range(heads)
            for place in range(width)
        ]
        return np.stack(rows)
    return values


def _settings(config: dict[str, Any]) -> dict[str, Any]:
    if config["model_type"] == "gpt2":
        return {
            "context_length": config["n_positions"],
            "embedding_length": config["n_embd"],
            "block_count": config["n_layer"],
            "feed_forward_length": 4 * config["n_embd"],
            "attention.head_count": config["n_head"],
            "attention.layer_norm_epsilon": config["layer_norm_epsilon"],
        }
    rope = config["rope_parameters"]
    head_dim = config["hidden_size"] // config["num_attention_heads"]
    shared = {
        "context_length": config["max_position_embeddings"],
        "embedding_length": config["hidden_size"],
        "block_count": config["num_hidden_layers"],
        "feed_forward_length": config["intermediate_size"],
        "attention.head_count": config["num_attention_heads"],
        "rope.dimension_count": int(head_dim * rope.get("partial_rotary_factor", 1.0)),
    }
    if config["model_type"] == "gpt_neox":
        return shared | {
            "use_parallel_residual": config["use_parallel_residual"],
            "attention.layer_norm_epsilon": config["layer_norm_eps"],
        }
    shared |= {
        "attention.head_count_kv": config["num_key_value_heads"],
        "attention.layer_norm_rms_epsilon": config["rms_norm_eps"],
        "rope.freq_base": rope["rope_theta"],
    }
    if config["model_type"] == "phi3":
        return shared | {
            "rope.scaling.original_context_length": config["original_max_position_embeddings"],
            "attention.sliding_window": config["sliding_window"] or 0,
        }
    if config["model_type"] == "llama":
        return shared
    count = config.get("num_local_experts") or config.get("num_experts")
    shared |= {"expert_count": count, "expert_used_count": config["num_experts_per_tok"]}
    if "moe_intermediate_size" in config:
        shared["expert_feed_forward_length"] = config["moe_intermediate_size"]
    if config["model_type"] == "qwen2_moe":
        shared["expert_shared_feed_forward_length"] = config["shared_expert_intermediate_size"]
    return shared
