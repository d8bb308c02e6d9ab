"""What config.json would say of the model in a GGUF file."""

from typing import Any

import numpy as np

from treadle.core.errors import CheckpointError, UnsupportedModelError
from treadle.model.gguf.file import GgufFile
from treadle.model.gguf.settings import (
    CONVERT_AGAIN,
    GgufSettings,
    optional_setting,
)

__all__ = ["ROPE_TENSORS", "gguf_config"]

_FACTORS, _LONG, _SHORT = (
    f"rope_{name}.weight" for name in ("freqs", "factors_long", "factors_short")
)
ROPE_TENSORS = (_FACTORS, _LONG, _SHORT)
"""Divisors of frequencies: the config says them, so they are no weights."""
_LARGE_GEMMAS = (46, 62)
"""Layers of the 27B models of gemma2 and gemma3, whose attention is scaled by hidden / heads."""
_LOCAL_THETA = 10_000.0
"""Of gemma3's sliding layers, where the file does not say it."""
_ROLES = (("bos", "bos"), ("eos", "eos"), ("pad", "padding"))
_PARTLY_ROTATED = ("phi3", "gpt_neox")
"""Types whose config says which part of a head is rotated."""
_NORMALISED = {"qwen2_moe": False, "olmoe": False, "qwen3_moe": True}
"""Whether the chosen experts' weights are made to sum to 1, as llama.cpp's graphs have it."""


def gguf_config(file: GgufFile, model_type: str, model_class: str) -> dict[str, Any]:
    """Return what config.json would say of a file's model.

    Raises:
        CheckpointError: A setting that the model needs is not there.
        UnsupportedModelError: A setting has a value that transformers' model cannot have, or is not
            known.
    """
    own = GgufSettings(file)
    make = {"gpt2": _gpt2, "gpt_neox": _gpt_neox}.get(model_type, _gated)
    config = {
        "architectures": [model_class],
        "model_type": model_type,
        **make(own, model_type),
        "vocab_size": _vocab_size(file),
        "tie_word_embeddings": "output.weight" not in file.tensors,
        **{
            f"{role}_token_id": optional_setting(
                file, f"tokenizer.ggml.{key}_token_id", "a whole number"
            )
            for role, key in _ROLES
        },
        "dtype": "float16",
    }
    own.require_all_known()
    return config


def _gated(own: GgufSettings, model_type: str) -> dict[str, Any]:
    """Return what is said of a llama and of those that are like it."""
    tensors, num_heads = own.file.tensors, own.number("attention.head_count")
    head_dim = _head_dim(own, num_heads)
    config = {
        **_sizes(own),
        "intermediate_size": own.number("feed_forward_length", _expert_width(own)),
        "num_key_value_heads": own.number("attention.head_count_kv", num_heads),
        **({} if model_type == "phi3" else {"head_dim": head_dim}),
        **_activation(model_type),
        "attention_bias": "blk.0.attn_q.bias" in tensors,
        "mlp_bias": "blk.0.ffn_up.bias" in tensors,
        "rms_norm_eps": _epsilon(own, "attention.layer_norm_rms_epsilon"),
        **_rope(own),
    }
    rotated = _rotated(own, head_dim, model_type)
    if model_type == "phi3":
        return config | _phi3(own, config, rotated)
    if model_type.startswith("gemma"):
        config |= _gemma(own, config, model_type)
    if model_type == "mixtral":
        config |= _experts(own, "num_local_experts")
    if model_type in _NORMALISED:
        config |= _fine_experts(own, model_type)
    return config


def _sizes(own: GgufSettings) -> dict[str, Any]:
    return {
        "hidden_size": own.number("embedding_length"),
        "num_hidden_layers": own.number("block_count"),
        "num_attention_heads": own.number("attention.head_count"),
        "max_position_embeddings": own.number("context_length"),
    }


def _epsilon(own: GgufSettings, key: str) -> float:
    # GGUF keeps it as a float32 (9.999999747378752e-06).
    return float(f"{own.value(key, 'a positive number'):.6g}")


def _head_dim(own: GgufSettings, num_heads: int) -> int:
    """Return the length of keys, which that of values has to be."""
    head_dim = own.number(
        "attention.key_length", own.number("embedding_length") // max(1, num_heads)
    )
    if own.number("attention.value_length", head_dim) != head_dim:
        raise UnsupportedModelError(
            f"'{own.file.path}' has values of another length than keys (attention.value_length), "
            f"which is not read; give the Hugging Face folder of the model."
        )
    return head_dim


def _rotated(own: GgufSettings, head_dim: int, model_type: str) -> float:
    """Return which part of each head is rotated."""
    rotated = own.number("rope.dimension_count", head_dim)
    if rotated != head_dim and (model_type not in _PARTLY_ROTATED or rotated > head_dim):
        raise UnsupportedModelError(
            f"'{own.file.path}' rotates a part of each head only (rope.dimension_count), which is "
            f"not read; give the Hugging Face folder of the model."
        )
    return rotated / head_dim


def _gpt2(own: GgufSettings, model_type: str) -> dict[str, Any]:
    """Return what is said of a GPT-2; its converter writes 4 x hidden, whatever the width is."""
    own.number("feed_forward_length")
    sizes, num_heads = _sizes(own), own.number("attention.head_count")
    _require_plain_heads(own, num_heads)
    return {
        "n_embd": sizes["hidden_size"],
        "n_layer": sizes["num_hidden_layers"],
        "n_head": num_heads,
        "n_positions": sizes["max_position_embeddings"],
        "n_inner": _rows(own, "blk.0.ffn_up.weight"),
        "activation_function": "gelu_new",
        "layer_norm_epsilon": _epsilon(own, "attention.layer_norm_epsilon"),
    }


def _gpt_neox(own: GgufSettings, model_type: str) -> dict[str, Any]:
    num_heads = own.number("attention.head_count")
    head_dim = _require_plain_heads(own, num_heads)
    rotated = _rotated(own, head_dim, model_type)
    theta = float(own.value("rope.freq_base", "a positive number", 10_000.0))
    return {
        **_sizes(own),
        "intermediate_size": own.number("feed_forward_length"),
        "hidden_act": "gelu",
        "use_parallel_residual": own.value("use_parallel_residual", "true or false", True),
        "layer_norm_eps": _epsilon(own, "attention.layer_norm_epsilon"),
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": theta,
            "partial_rotary_factor": rotated,
        },
    }


def _require_plain_heads(own: GgufSettings, num_heads: int) -> int:
    """Return the length of heads, which share the hidden size and are as many for keys."""
    head_dim = own.number("embedding_length") // max(1, num_heads)
    found = own.number("attention.head_count_kv", num_heads), _head_dim(own, num_heads)
    if found != (num_heads, head_dim):
        raise UnsupportedModelError(
            f"'{own.file.path}' has {found[0]} heads of keys of length {found[1]} for "
            f"{num_heads} heads (attention.head_count_kv, attention.key_length), which is not "
            f"read; give the Hugging Face folder of the model."
        )
    return head_dim


def _rows(own: GgufSettings, name: str) -> int:
    """Return how many rows a tensor has."""
    if name not in own.file.tensors:
        raise CheckpointError(
            f"Tensor '{name}' is missing from '{own.file.path}'; {CONVERT_AGAIN}."
        )
    return own.file.tensors[name].shape[-2]


def _expert_width(own: GgufSettings) -> int | None:
    """Return the width of experts, of a file that has no other."""
    stacked = own.file.tensors.get("blk.0.ffn_up_exps.weight")
    return None if stacked is None else stacked.shape[-2]


def _experts(own: GgufSettings, count: str) -> dict[str, Any]:
    return {
        count: own.number("expert_count"),
        "num_experts_per_tok": own.number("expert_used_count"),
    }


def _fine_experts(own: GgufSettings, model_type: str) -> dict[str, Any]:
    """Return what is said of experts that are narrower than a dense layer would be."""
    normalises = own.value("expert_weights_norm", "true or false", _NORMALISED[model_type])
    found = {**_experts(own, "num_experts"), "norm_topk_prob": normalises}
    width = own.number("expert_feed_forward_length", _rows(own, "blk.0.ffn_up_exps.weight"))
    if model_type == "olmoe":
        return found | {"intermediate_size": width}
    found |= {"moe_intermediate_size": width, "decoder_sparse_step": 1, "mlp_only_layers": []}
    if model_type == "qwen2_moe":
        shared = _rows(own, "blk.0.ffn_up_shexp.weight")
        found["shared_expert_intermediate_size"] = own.number(
            "expert_shared_feed_forward_length", shared
        )
        found["qkv_bias"] = "blk.0.attn_q.bias" in own.file.tensors
    return found


def _phi3(own: GgufSettings, config: dict[str, Any], rotated: float) -> dict[str, Any]:
    """Return what a phi3 has beside a llama's settings: long rope, a window, parts of heads."""
    original = own.value(
        "rope.scaling.original_context_length",
        "a positive whole number",
        own.number("context_length"),
    )
    window = own.optional("attention.sliding_window", "a whole number")
    theta = config.get("rope_theta") or config["rope_parameters"]["rope_theta"]
    rope = {"rope_type": "default", **config.get("rope_parameters", {"rope_theta": theta})}
    if _LONG in own.file.tensors:
        factor = own.value("rope.scaling.attn_factor", "a positive number", 1.0)
        rope |= {
            "rope_type": "longrope",
            "long_factor": _listed(own, _LONG),
            "short_factor": _listed(own, _SHORT),
            "attention_factor": float(factor),
            "original_max_position_embeddings": original,
        }
    return {
        "original_max_position_embeddings": original,
        "sliding_window": window or None,
        "rope_parameters": rope | {"partial_rotary_factor": rotated},
    }


def _listed(own: GgufSettings, name: str) -> list[float]:
    """Return the numbers of a small tensor."""
    found = own.file.tensors.get(name)
    if found is None or found.type != "F32":
        raise CheckpointError(
            f"'{own.file.path}' has {'no tensor' if found is None else found.type + ' numbers in'} "
            f"'{name}', but floats of 32 bits were expected; {CONVERT_AGAIN}."
        )
    numbers: list[float] = own.file.raw(name).reshape(-1).view(np.float32).tolist()
    return numbers


def _activation(model_type: str) -> dict[str, str]:
    if model_type.startswith("gemma"):
        return {"hidden_activation": "gelu_pytorch_tanh"}
    return {"hidden_act": "silu"}


def _vocab_size(file: GgufFile) -> int:
    if "token_embd.weight" not in file.tensors:
        raise CheckpointError(
            f"Tensor 'token_embd.weight' is missing from '{file.path}'; {CONVERT_AGAIN}."
        )
    num_rows = file.tensors["token_embd.weight"].shape[0]
    num_tokens = len(optional_setting(file, "tokenizer.ggml.tokens", "a list of texts") or ())
    if num_tokens > num_rows:
        raise CheckpointError(
            f"'{file.path}' lists {num_tokens} tokens (tokenizer.ggml.tokens), but "
            f"'token_embd.weight' has {num_rows} rows; {CONVERT_AGAIN}."
        )
    return num_rows


def _rope(own: GgufSettings) -> dict[str, Any]:
    """Return what the config says of rope: its base, or all parameters."""
    theta = float(own.value("rope.freq_base", "a positive number", 10_000.0))
    # As llama.cpp has it, a factor without a type is a linear one, and 0 is none.
    factor = float(own.optional("rope.scaling.factor", "a finite number") or 1)
    kind = own.value("rope.scaling.type", "a text", "none" if factor == 1 else "linear")
    original = own.optional("rope.scaling.original_context_length", "a positive whole number")
    betas = {
        f"beta_{name}": own.optional(f"rope.scaling.yarn_beta_{name}", "a positive number")
        for name in ("fast", "slow")
    }
    if kind == "longrope" and _LONG in own.file.tensors:
        kind = "none"  # it is phi3's, which looks at the tensors
    if kind not in ("none", "linear", "yarn") or factor <= 0:
        raise UnsupportedModelError(
            f"'{own.file.path}' scales its positions by '{kind}' and the factor {factor:g}, but "
            f"none, linear and yarn by positive factors are read; give the Hugging Face folder of "
            f"the model."
        )
    if _FACTORS in own.file.tensors:
        if kind != "none" and factor != 1:
            raise UnsupportedModelError(
                f"'{own.file.path}' scales its positions twice, by '{kind}' and by the tensor "
                f"{_FACTORS}, which is not read; give the Hugging Face folder of the model."
            )
        return {"rope_parameters": {"rope_theta": theta, **_factors(own)}}
    if kind == "none":
        return {"rope_theta": theta}
    scaled = {"rope_theta": theta, "rope_type": kind, "factor": factor}
    if kind == "yarn":
        own.value("rope.scaling.factor", "a positive number")
        own.value("rope.scaling.original_context_length", "a positive whole number")
        scaled["original_max_position_embeddings"] = original
        scaled |= {name: float(value) for name, value in betas.items() if value is not None}
    return {"rope_parameters": scaled}


def _factors(own: GgufSettings) -> dict[str, Any]:
    """Return a scaling that divides each frequency by a factor, for texts of any length."""
    factors = _listed(own, _FACTORS)
    return {
        "rope_type": "longrope",
        "short_factor": factors,
        "long_factor": factors,
        "attention_factor": 1.0,
        "original_max_position_embeddings": own.number("context_length"),
    }


def _gemma(own: GgufSettings, config: dict[str, Any], model_type: str) -> dict[str, Any]:
    """Return what gemma2 and gemma3 have beside a llama's settings."""
    num_layers = config["num_hidden_layers"]
    is_large = num_layers in _LARGE_GEMMAS
    per_head = config["hidden_size"] // config["num_attention_heads"]
    is_second = model_type == "gemma2"
    found = {
        "query_pre_attn_scalar": per_head if is_large else config["head_dim"],
        "sliding_window": own.number("attention.sliding_window", 4096 if is_second else None),
        "layer_types": _layer_types(own, num_layers, 2 if is_second else 6),
    }
    for key in ("attn_logit_softcapping", "final_logit_softcapping"):
        # An absent cap is that of the class: gemma2 has one, gemma3 none, as in llama.cpp.
        cap = own.optional(key, "a positive number")
        found |= {} if cap is None else {key: cap}
    if not is_second:
        local = own.value("rope.freq_base_swa", "a positive number", _LOCAL_THETA)
        everywhere = config.pop("rope_parameters", None) or {"rope_theta": config.pop("rope_theta")}
        found["rope_parameters"] = {
            "full_attention": {"rope_type": "default", **everywhere},
            "sliding_attention": {"rope_type": "default", "rope_theta": float(local)},
        }
    return found


def _layer_types(own: GgufSettings, num_layers: int, period: int) -> list[str]:
    """Return which layers slide: all but every so many, or those that the file lists."""
    said = own.pattern("attention.sliding_window_pattern", period)
    if not isinstance(said, list):
        slides = [layer % said < said - 1 for layer in range(num_layers)]
    elif len(said) == num_layers and all(entry in (0, 1) for entry in said):
        slides = [bool(entry) for entry in said]
    else:
        raise CheckpointError(
            f"'{own.file.path}' says attention.sliding_window_pattern: {said[:4]}..., but true or "
            f"false of each of {num_layers} layers was expected; {CONVERT_AGAIN}."
        )
    return ["sliding_attention" if slide else "full_attention" for slide in slides]
