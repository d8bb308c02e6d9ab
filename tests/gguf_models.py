"""Writes tiny models as GGUF files, as llama.cpp's converter would; not a test itself."""

import itertools
import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf.quants import quantize
from safetensors.numpy import load_file
from transformers import AutoTokenizer

from naive import config_of

GGUF_NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
GEMMA_NAMES = GGUF_NAMES | {
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}


OVERRIDES = {
    "llama": {},
    "mistral": {"sliding_window": None},
    "qwen2": {},
    "qwen3": {},
    "gemma2": {"query_pre_attn_scalar": 16},
    "gemma3_text": {"query_pre_attn_scalar": 16, "num_hidden_layers": 7},
}
"""What a GGUF file can say of a tiny model."""


def interleaved(weight: np.ndarray, num_heads: int) -> np.ndarray:
    """Order rows as llama.cpp does for llamas, row by row."""
    dim = len(weight) // num_heads
    out = np.empty_like(weight)
    for head in range(num_heads):
        for place in range(dim // 2):
            out[head * dim + 2 * place] = weight[head * dim + place]
            out[head * dim + 2 * place + 1] = weight[head * dim + dim // 2 + place]
    return out


def to_gguf(
    folder: Path,
    out: Path,
    kind: str = "F32",
    architecture: str = "",
    part_tensors: int = 0,
    **settings: Any,
) -> dict[str, np.ndarray]:
    """Write `folder` as llama.cpp's converter would, with the gguf library's own rounding.

    Args:
        kind: The type of matrices; several, joined by commas, take turns.
        part_tensors: How many tensors each file of a split model holds; 0: it is not split.
        settings: Its settings that are others, by key; None: it lacks this one.

    Returns:
        What each matrix reads back as, by its name in the folder.
    """
    config, tensors = config_of(folder), load_file(folder / "model.safetensors")
    model_type = config["model_type"]
    architecture = architecture or {"gemma3_text": "gemma3", "mistral": "llama"}.get(
        model_type, model_type
    )
    writer = gguf.GGUFWriter(out, architecture, split_max_tensors=part_tensors)
    _write_settings(writer, config, architecture)
    _write_tokenizer(writer, folder)
    for key, value in settings.items():
        writer.kv_data[0].pop(key, None)
        if key == "general.alignment" and value in (64, 4096):
            writer.add_custom_alignment(value)
        elif value is not None:
            is_large = isinstance(value, int) and value >= 2**31
            own = gguf.GGUFValueType.get_type(value)
            writer.add_key_value(key, value, gguf.GGUFValueType.UINT32 if is_large else own)
    decoded = {}
    names = GEMMA_NAMES if architecture.startswith("gemma") else GGUF_NAMES
    kinds = itertools.cycle(kind.split(","))
    for name, values in tensors.items():
        values, heads = values.astype(np.float32), 0
        if architecture == "llama" and ("q_proj" in name or "k_proj" in name):
            heads = config["num_attention_heads" if "q_proj" in name else "num_key_value_heads"]
        if architecture.startswith("gemma") and name.endswith("norm.weight"):
            values = values + 1
        values = interleaved(values, heads) if heads else values
        kept = "F32" if values.ndim == 1 else next(kinds)
        stored = _stored(values, kept)
        raw_dtype = gguf.GGMLQuantizationType[kept]
        writer.add_tensor(_gguf_name(name, names), stored, raw_dtype=raw_dtype)
        if values.ndim == 2:
            own = gguf.quants.dequantize(stored, raw_dtype).astype(np.float32)
            decoded[name] = deinterleaved(own, heads) if heads else own
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return decoded


def deinterleaved(weight: np.ndarray, num_heads: int) -> np.ndarray:
    dim = len(weight) // num_heads
    out = np.empty_like(weight)
    for head in range(num_heads):
        for place in range(dim // 2):
            out[head * dim + place] = weight[head * dim + 2 * place]
            out[head * dim + dim // 2 + place] = weight[head * dim + 2 * place + 1]
    return out


def _stored(values: np.ndarray, kind: str) -> np.ndarray:
    if kind == "F32":
        return np.ascontiguousarray(values)
    if kind == "F16":
        return values.astype(np.float16)
    if kind in SCALE_BYTES:
        return drawn_blocks(kind, *values.shape)
    return quantize(values, gguf.GGMLQuantizationType[kind])


SCALE_BYTES = {
    "Q2_K": (80, 82),
    "Q3_K": (108,),
    "Q4_K": (0, 2),
    "Q5_K": (0, 2),
    "Q6_K": (208,),
    "IQ4_NL": (0,),
    "IQ4_XS": (0,),
    "IQ2_XXS": (0,),
    "IQ3_S": (0,),
    "TQ2_0": (64,),
}
"""Types that the gguf library does not write -> where the scales lie in a block."""


def drawn_blocks(kind: str, rows: int, cols: int) -> np.ndarray:
    """Return blocks of random codes, whose scales make of them weights of about 0.05."""
    columns, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]]
    generator = np.random.default_rng(rows * cols)
    raw = generator.integers(0, 256, (rows * cols // columns, size), np.uint8)
    for unit in (1.0, None):
        if unit is None:
            weights = gguf.quants.dequantize(raw, gguf.GGMLQuantizationType[kind])
            unit = 0.05 / float(weights.std())
        for place in SCALE_BYTES[kind]:
            scales = (unit * generator.uniform(0.9, 1.1, len(raw))).astype(np.float16)
            raw[:, place : place + 2] = scales.view(np.uint8).reshape(-1, 2)
    return raw.reshape(rows, -1)


def _gguf_name(name: str, names: dict[str, str]) -> str:
    outer = {
        "model.embed_tokens.weight": "token_embd.weight",
        "model.norm.weight": "output_norm.weight",
        "lm_head.weight": "output.weight",
    }
    if name in outer:
        return outer[name]
    _, _, layer, rest = name.split(".", 3)
    part, _, leaf = rest.rpartition(".")
    return f"blk.{layer}.{names[part]}.{leaf}"


def _write_settings(writer: gguf.GGUFWriter, config: dict[str, Any], architecture: str) -> None:
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(config.get("head_dim", 16))
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    rope = config["rope_parameters"]
    writer.add_rope_freq_base(rope.get("full_attention", rope)["rope_theta"])
    if architecture.startswith("gemma"):
        writer.add_sliding_window(config["sliding_window"])
    if architecture == "gemma2":
        writer.add_attn_logit_softcapping(config["attn_logit_softcapping"])
        writer.add_final_logit_softcapping(config["final_logit_softcapping"])


def _write_tokenizer(writer: gguf.GGUFWriter, folder: Path) -> None:
    described = json.loads((folder / "tokenizer.json").read_text())["model"]
    ids = AutoTokenizer.from_pretrained(folder).get_vocab()
    tokens = sorted(ids, key=ids.__getitem__)[: config_of(folder)["vocab_size"]]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token == "<|end|>" else 1 for token in tokens])
    writer.add_token_merges([" ".join(merge) for merge in described["merges"]])
    writer.add_eos_token_id(ids["<|end|>"])
