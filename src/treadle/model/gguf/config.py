"""What config.json would say of the model in a GGUF file; no setting that counts is passed over."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from treadle.core.errors import CheckpointError, UnsupportedModelError
from treadle.model.gguf.file import GgufFile

__all__ = [
    "CONVERT_AGAIN",
    "ROPE_FACTORS",
    "GgufSettings",
    "gguf_config",
    "optional_setting",
    "require_setting",
]

CONVERT_AGAIN = "convert the model again with llama.cpp's convert_hf_to_gguf.py"
ROPE_FACTORS = "rope_freqs.weight"
"""Divisors of llama 3's frequencies: the config says them, so it is no weight."""
_LARGE_GEMMAS = (46, 62)
"""Layers of the 27B models of gemma2 and gemma3, whose attention is scaled by hidden / heads."""
_LOCAL_THETA = 10_000.0
"""Of gemma3's sliding layers, where the file does not say it."""
_ROLES = (("bos", "bos"), ("eos", "eos"), ("pad", "padding"))
_MOST = 2**31 - 1
"""The largest count: llama.cpp holds them in 32 bits."""


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MOST


def _is_number(value: Any) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and math.isfinite(value)


_KINDS: dict[str, Callable[[Any], bool]] = {
    "a text": lambda value: isinstance(value, str),
    "true or false": lambda value: isinstance(value, bool),
    "a whole number": _is_count,
    "a positive whole number": lambda value: _is_count(value) and value > 0,
    "a finite number": _is_number,
    "a positive number": lambda value: _is_number(value) and value > 0,
    "a list of texts": lambda value: (
        isinstance(value, list) and all(isinstance(entry, str) for entry in value)
    ),
    "a list of numbers": lambda value: isinstance(value, list) and all(map(_is_number, value)),
}
"""What a setting may have to be, in the words of messages."""
_IDLE = (
    *("vocab_size", "rope.scaling.finetuned", "attention.layer_norm_epsilon"),
    # Of embeddings alone, whose caller says how they are pooled.
    *("pooling_type", "tensor_data_layout"),
)
"""Settings of an architecture that change no number here, nor in llama.cpp's graph of these."""
_NEUTRAL: dict[str, tuple[float | str | bool, ...]] = {
    **dict.fromkeys(("logit_scale", "residual_scale", "embedding_scale"), (0, 1)),
    **dict.fromkeys(("rope.scaling.attn_factor", "rope.scaling.yarn_attn_factor"), (1,)),
    **dict.fromkeys(("rope.scaling.yarn_ext_factor", "rope.scale_linear"), (1,)),
    **dict.fromkeys(("expert_count", "expert_used_count", "expert_shared_count"), (0,)),
    **dict.fromkeys(("leading_dense_block_count", "nextn_predict_layers"), (0,)),
    **dict.fromkeys(("attention.clamp_kqv", "attention.max_alibi_bias"), (0,)),
    **dict.fromkeys(("attention.scale", "rope.scaling.alpha"), (0,)),
    **dict.fromkeys(("rope.scaling.yarn_log_multiplier", "attention.sliding_window"), (0,)),
    **dict.fromkeys(("final_logit_softcapping", "attn_logit_softcapping"), (0,)),
    "attention.causal": (True,),
    "use_parallel_residual": (False,),
}
"""Settings that are refused unless they have a value that says "nothing of the kind"."""


def require_setting(file: GgufFile, key: str, kind: str) -> Any:
    """Return a setting of a file, which is of a kind such as "a whole number".

    Raises:
        CheckpointError: It is not there, or of another kind.
    """
    found = optional_setting(file, key, kind)
    if found is None:
        raise CheckpointError(f"'{file.path}' lacks the setting {key}; {CONVERT_AGAIN}.")
    return found


def optional_setting(file: GgufFile, key: str, kind: str) -> Any:
    """Return a setting of a file, or None where it is not there.

    Raises:
        CheckpointError: It is of another kind.
    """
    found = file.settings.get(key)
    if found is not None and not _KINDS[kind](found):
        raise CheckpointError(
            f"'{file.path}' says {key}: {_shown(found)}, but {kind} was expected; {CONVERT_AGAIN}."
        )
    return found


class GgufSettings:
    """The settings of a file's architecture; it knows which ones were asked for.

    Attributes:
        file: The file.
    """

    def __init__(self, file: GgufFile) -> None:
        self.file = file
        self._prefix = f"{require_setting(file, 'general.architecture', 'a text')}."
        self._asked: set[str] = set()

    def optional(self, key: str, kind: str) -> Any:
        """Return a setting, or None."""
        self._asked.add(key)
        return optional_setting(self.file, self._prefix + key, kind)

    def value(self, key: str, kind: str, default: Any = None) -> Any:
        """Return a setting, or `default` unless that is None."""
        found = self.optional(key, kind)
        if found is not None:
            return found
        return require_setting(self.file, self._prefix + key, kind) if default is None else default

    def number(self, key: str, default: int | None = None) -> int:
        """Return a positive whole number, the same one for all layers."""
        whole = self.file.settings.get(self._prefix + key)
        if not isinstance(whole, list) or not whole:
            return int(self.value(key, "a positive whole number", default))
        listed = self.value(key, "a list of numbers")
        if len(set(listed)) != 1:
            raise UnsupportedModelError(
                f"'{self.file.path}' has a {key} for each layer ({listed[:4]}...), and one for "
                f"all is read; give the Hugging Face folder of the model."
            )
        if not _KINDS["a positive whole number"](listed[0]):
            raise CheckpointError(
                f"'{self.file.path}' says {key}: {listed[0]} for every layer, but a positive whole "
                f"number was expected; {CONVERT_AGAIN}."
            )
        return int(listed[0])

    def pattern(self, key: str, default: int) -> int | list[Any]:
        """Return every how many layers something comes, or a list that says it of each layer."""
        whole = self.file.settings.get(self._prefix + key)
        if not isinstance(whole, list):
            return int(self.value(key, "a positive whole number", default))
        self._asked.add(key)
        return whole

    def require_all_known(self) -> None:
        """Require that each setting was asked for, changes nothing or says that nothing is there.

        Raises:
            UnsupportedModelError: One says something that is not computed with.
        """
        for name, value in self.file.settings.items():
            key = name.removeprefix(self._prefix)
            if key == name or key in self._asked or key in _IDLE:
                continue
            if key not in _NEUTRAL or not any(value == none for none in _NEUTRAL[key]):
                raise UnsupportedModelError(
                    f"'{self.file.path}' says {name}: {_shown(value)}, which is not computed with; "
                    f"give the Hugging Face folder of the model."
                )


def _shown(value: Any) -> str:
    """Return a value for a message, cut where it is long."""
    said = repr(value[:4] if isinstance(value, list) else value)
    return f"{said[:60]}..." if len(said) > 60 or (isinstance(value, list) and value[4:]) else said


def gguf_config(file: GgufFile, model_type: str, model_class: str) -> dict[str, Any]:
    """Return what config.json would say of a file's model.

    Raises:
        CheckpointError: A setting that the model needs is not there.
        UnsupportedModelError: A setting has a value that transformers' model cannot have, or is not
            known.
    """
    own = GgufSettings(file)
    hidden_size = own.number("embedding_length")
    num_heads = own.number("attention.head_count")
    head_dim = own.number("attention.key_length", hidden_size // max(1, num_heads))
    if own.number("rope.dimension_count", head_dim) != head_dim:
        raise UnsupportedModelError(
            f"'{file.path}' rotates a part of each head only (rope.dimension_count), which is not "
            f"read; give the Hugging Face folder of the model."
        )
    if own.number("attention.value_length", head_dim) != head_dim:
        raise UnsupportedModelError(
            f"'{file.path}' has values of another length than keys (attention.value_length), which "
            f"is not read; give the Hugging Face folder of the model."
        )
    ids = {
        role: optional_setting(file, f"tokenizer.ggml.{key}_token_id", "a whole number")
        for role, key in _ROLES
    }
    epsilon = own.value("attention.layer_norm_rms_epsilon", "a positive number")
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
        "rms_norm_eps": float(f"{epsilon:.6g}"),
        **_rope(own),
        "tie_word_embeddings": "output.weight" not in file.tensors,
        **{f"{role}_token_id": token for role, token in ids.items()},
        "dtype": "float16",
    }
    if model_type.startswith("gemma"):
        config |= _gemma(own, config)
    own.require_all_known()
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
    if kind not in ("none", "linear", "yarn") or factor <= 0:
        raise UnsupportedModelError(
            f"'{own.file.path}' scales its positions by '{kind}' and the factor {factor:g}, but "
            f"none, linear and yarn by positive factors are read; give the Hugging Face folder of "
            f"the model."
        )
    if ROPE_FACTORS in own.file.tensors:
        if kind != "none" and factor != 1:
            raise UnsupportedModelError(
                f"'{own.file.path}' scales its positions twice, by '{kind}' and by the tensor "
                f"{ROPE_FACTORS}, which is not read; give the Hugging Face folder of the model."
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
    factors = own.file.raw(ROPE_FACTORS).reshape(-1).view(np.float32).tolist()
    return {
        "rope_type": "longrope",
        "short_factor": factors,
        "long_factor": factors,
        "attention_factor": 1.0,
        "original_max_position_embeddings": own.number("context_length"),
    }


def _gemma(own: GgufSettings, config: dict[str, Any]) -> dict[str, Any]:
    """Return what gemma2 and gemma3 have beside a llama's settings."""
    num_layers = config["num_hidden_layers"]
    is_large = num_layers in _LARGE_GEMMAS
    per_head = config["hidden_size"] // config["num_attention_heads"]
    is_second = config["model_type"] == "gemma2"
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
