"""How the architectures of the native step call what stands beside the matrices of their blocks."""

from typing import NamedTuple

__all__ = ["BUNDLED", "LLAMA_LIKE", "NAMES", "TensorNames"]


class TensorNames(NamedTuple):
    """Names of vectors and tables on disk; empty where an architecture has none."""

    norms: tuple[str, ...]
    """Of a block, behind its prefix, in the order of the struct Layer's."""
    norm: str = "norm.weight"
    """The final one, behind the prefix of all that is not the head."""
    shift: str = ""
    """Its bias."""
    embedding: str = "embed_tokens.weight"
    positions: str = ""
    """A table of learned positions."""
    first_position: int = 0
    """Its row that is added at the first position."""


_QK_NORMS = ("self_attn.q_norm.weight", "self_attn.k_norm.weight")
_IN, _POST = "input_layernorm.weight", "post_attention_layernorm.weight"
_LLAMA = TensorNames((_IN, _POST, "", "", *_QK_NORMS, "", "", "", ""))
_GEMMA = TensorNames(
    (
        *(_IN, "pre_feedforward_layernorm.weight"),
        *(_POST, "post_feedforward_layernorm.weight", *_QK_NORMS, "", "", "", ""),
    )
)


def _centred(attention: str, mlp: str) -> tuple[str, ...]:
    """Return the norms of a block whose two norms have biases."""
    return (
        *(f"{attention}.weight", f"{mlp}.weight", "", "", "", ""),
        *(f"{attention}.bias", f"{mlp}.bias", "", ""),
    )


NAMES = {
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
    "gemma2": _GEMMA,
    "gemma3_text": _GEMMA,
    "smollm3": _LLAMA,
    "mixtral": _LLAMA,
    "qwen2_moe": _LLAMA,
    "qwen3_moe": _LLAMA,
    "olmoe": TensorNames((_IN, _POST, "", "", "", "", "", "", *_QK_NORMS)),
    "phi3": _LLAMA,
    "gpt_neox": TensorNames(
        _centred("input_layernorm", "post_attention_layernorm"),
        "final_layer_norm.weight",
        "final_layer_norm.bias",
        "embed_in.weight",
    ),
    "gpt2": TensorNames(
        *(_centred("ln_1", "ln_2"), "ln_f.weight", "ln_f.bias", "wte.weight", "wpe.weight")
    ),
    "opt": TensorNames(
        _centred("self_attn_layer_norm", "final_layer_norm"),
        "final_layer_norm.weight",
        "final_layer_norm.bias",
        positions="embed_positions.weight",
        first_position=2,
    ),
}
"""`model_type` -> names."""
LLAMA_LIKE = tuple(NAMES)
"""`model_type`s that the native step computes."""
BUNDLED = ("llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3_text")
"""Those of which it adds experts beside the model: their matrices are tensors of their own."""
