"""What config.json would say of the model in a GGUF file."""

from typing import Any, NamedTuple

import numpy as np

from treadle.core.errors import CheckpointError, UnsupportedModelError
from treadle.model.gguf_file import GgufFile

__all__ = ["CONVERT_AGAIN", "ROPE_FACTORS", "gguf_config", "require_setting"]

CONVERT_AGAIN = "convert the model again with llama.cpp's convert_hf_to_gguf.py"
ROPE_FACTORS = "rope_freqs.weight"
"""Divisors of llama 3's frequencies: the config says them, so it is no weight."""
_LARGE_GEMMAS = (46, 62)
"""Layers of the 27B models of gemma2 and gemma3, whose attention is scaled by hidden / heads."""
_LOCAL_THETA = 10_000.0
"""Of gemma3's sliding layers; llama.cpp fixes it, as well as how layers alternate."""
_ROLES = (("bos", "bos"), ("eos", "eos"), ("pad", "padding"))


def require_setting(file: GgufFile, key: str) -> Any:
    """Return a setting of a file.

    Raises:
        CheckpointError: It is not there.
    """
    if key not in file.settings:
        raise CheckpointError(f"'{file.path}' lacks the setting {key}; {CONVERT_AGAIN}.")
    return file.settings[key]


class _Settings(NamedTuple):
    """The settings of a file's architecture."""

    file: GgufFile

    def optional(self, key: str) -> Any:
        """Return a setting, or None."""
        return self.file.settings.get(f"{self.file.settings['general.architecture']}.{key}")

    def value(self, key: str, default: Any = None) -> Any:
        """Return a setting, or `default` unless that is None."""
        if default is not None and self.optional(key) is None:
            return default
        return require_setting(self.file, f"{self.file.settings['general.architecture']}.{key}")

    def number(self, key: str, default: int | None = None) -> int:
        """Return a setting that is one number for all layers."""
        found = self.value(key, default)
        if isinstance(found, list):
            if len(set(found)) != 1:
                raise UnsupportedModelError(
                    f"'{self.file.path}' has a {key} for each layer ({found[:4]}...), and one for "
                    f"all is read; give the Hugging Face folder of the model."
                )
            found = found[0]
        return int(found)


def gguf_config(file: GgufFile, model_type: str, model_class: str) -> dict[str, Any]:
    """Return what config.json would say of a file's model.

    Raises:
        CheckpointError: A setting that the model needs is not there.
        UnsupportedModelError: A setting has a value that transformers' model cannot have.
    """
    own = _Settings(file)
    hidden_size = own.number("embedding_length")
    num_heads = own.number("attention.head_count")
    head_dim = own.number("attention.key_length", hidden_size // max(1, num_heads))
    if own.number("rope.dimension_count", head_dim) != head_dim:
        raise UnsupportedModelError(
            f"'{file.path}' rotates a part of each head only (rope.dimension_count), which is not "
            f"read; give the Hugging Face folder of the model."
        )
    ids = {role: file.settings.get(f"tokenizer.ggml.{key}_token_id") for role, key in _ROLES}
    config = {
        "architectures": [model_class],
        "model_type": model_type,
        "vocab_size": _vocab_size(file),
        "hidden_size": hidden_size,
        "intermediate_size": own.number("feed_forward_length"),
        "num_hidden_layers": own.number("block_count"),
        "num_attention_heads": num_heads,
        "num_key_value_heads": own.number("attention.head_count_kv", num_heads),
        "head_dim": head_dim,
        **_activation(model_type),
        "attention_bias": "blk.0.attn_q.bias" in file.tensors,
        "mlp_bias": "blk.0.ffn_up.bias" in file.tensors,
        "max_position_embeddings": own.number("context_length"),
        # GGUF keeps it as a float32 (9.999999747378752e-06).
        "rms_norm_eps": float(f"{own.value('attention.layer_norm_rms_epsilon'):.6g}"),
        **_rope(own),
        "tie_word_embeddings": "output.weight" not in file.tensors,
        **{f"{role}_token_id": token for role, token in ids.items()},
        "dtype": "float16",
    }
    if model_type.startswith("gemma"):
        config |= _gemma(own, config)
    return config


def _activation(model_type: str) -> dict[str, str]:
    if model_type.startswith("gemma"):
        return {"hidden_activation": "gelu_pytorch_tanh"}
    return {"hidden_act": "silu"}


def _vocab_size(file: GgufFile) -> int:
    if "token_embd.weight" not in file.tensors:
        raise CheckpointError(
            f"Tensor 'token_embd.weight' is missing from '{file.path}'; {CONVERT_AGAIN}."
        )
    return file.tensors["token_embd.weight"].shape[0]


def _rope(own: _Settings) -> dict[str, Any]:
    """Return what the config says of rope: its base, or all parameters."""
    theta = float(own.value("rope.freq_base", 10_000.0))
    if ROPE_FACTORS in own.file.tensors:
        return {"rope_parameters": {"rope_theta": theta, **_factors(own)}}
    kind = own.value("rope.scaling.type", "none")
    if kind == "none":
        return {"rope_theta": theta}
    if kind not in ("linear", "yarn"):
        raise UnsupportedModelError(
            f"'{own.file.path}' scales its positions by '{kind}', but none, linear and yarn are "
            f"read; give the Hugging Face folder of the model."
        )
    factor = float(own.value("rope.scaling.factor"))
    scaled = {"rope_theta": theta, "rope_type": kind, "factor": factor}
    if kind == "yarn":
        original = own.number("rope.scaling.original_context_length")
        scaled["original_max_position_embeddings"] = original
    return {"rope_parameters": scaled}


def _factors(own: _Settings) -> dict[str, Any]:
    """Return a scaling that divides each frequency by a factor, for texts of any length."""
    factors = own.file.raw(ROPE_FACTORS).reshape(-1).view(np.float32).tolist()
    return {
        "rope_type": "longrope",
        "short_factor": factors,
        "long_factor": factors,
        "attention_factor": 1.0,
        "original_max_position_embeddings": own.number("context_length"),
    }


def _gemma(own: _Settings, config: dict[str, Any]) -> dict[str, Any]:
    """Return what gemma2 and gemma3 have beside a llama's settings."""
    num_layers = config["num_hidden_layers"]
    is_large = num_layers in _LARGE_GEMMAS
    per_head = config["hidden_size"] // config["num_attention_heads"]
    is_second = config["model_type"] == "gemma2"
    period = 2 if is_second else 6
    found = {
        "query_pre_attn_scalar": per_head if is_large else config["head_dim"],
        "sliding_window": own.number("attention.sliding_window"),
        "attn_logit_softcapping": own.optional("attn_logit_softcapping"),
        "final_logit_softcapping": own.optional("final_logit_softcapping"),
        "layer_types": [
            "full_attention" if layer % period == period - 1 else "sliding_attention"
            for layer in range(num_layers)
        ],
    }
    if not is_second:
        everywhere = config.pop("rope_parameters", None) or {"rope_theta": config.pop("rope_theta")}
        found["rope_parameters"] = {
            "full_attention": {"rope_type": "default", **everywhere},
            "sliding_attention": {"rope_type": "default", "rope_theta": _LOCAL_THETA},
        }
    return found
