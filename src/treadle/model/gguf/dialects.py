"""How llama.cpp writes transformers' architectures: names of tensors, orders of rows."""

from typing import Literal, NamedTuple

from treadle.core.errors import UnsupportedModelError
from treadle.model.gguf.file import GgufFile
from treadle.model.gguf.settings import optional_setting, require_setting

__all__ = ["EXPERT", "GgufDialect", "dialect_of"]

EXPERT = "{expert}"
"""Stands for the number of an expert, in names of what llama.cpp stacks."""


class GgufDialect(NamedTuple):
    """How llama.cpp writes one of transformers' architectures."""

    model_type: str
    model_class: str
    names: dict[str, str]
    """What stands in a block: name in the file -> name in the folder."""
    outer: dict[str, str]
    """What stands beside the blocks, likewise."""
    blocks: str = "model.layers."
    order: Literal["", "rotated", "fused"] = ""
    """rotated: the halves that rope rotates are interleaved, in the rows of queries and keys;
    fused: all heads' queries stand before all keys and values, not head by head."""
    norm_shift: float = 0.0
    """What is added to the weights of norms."""
    transposes: bool = False
    """Whether the folder holds the blocks' matrices as [in, out]."""


_ATTENTION = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
}
_DENSE = _ATTENTION | {
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_GEMMA = _DENSE | {
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}
_EXPERTS = _ATTENTION | {
    "ffn_gate_inp": "mlp.gate",
    "ffn_gate_exps": "mlp.experts.{expert}.gate_proj",
    "ffn_up_exps": "mlp.experts.{expert}.up_proj",
    "ffn_down_exps": "mlp.experts.{expert}.down_proj",
}
_SHARED = _EXPERTS | {
    "ffn_gate_inp_shexp": "mlp.shared_expert_gate",
    "ffn_gate_shexp": "mlp.shared_expert.gate_proj",
    "ffn_up_shexp": "mlp.shared_expert.up_proj",
    "ffn_down_shexp": "mlp.shared_expert.down_proj",
}
_MIXTRAL = _ATTENTION | {
    "ffn_gate_inp": "block_sparse_moe.gate",
    "ffn_gate_exps": "block_sparse_moe.experts.{expert}.w1",
    "ffn_down_exps": "block_sparse_moe.experts.{expert}.w2",
    "ffn_up_exps": "block_sparse_moe.experts.{expert}.w3",
}
_PHI3 = {
    "attn_norm": "input_layernorm",
    "attn_qkv": "self_attn.qkv_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_up": "mlp.gate_up_proj",
    "ffn_down": "mlp.down_proj",
}
_GPT2 = {
    "attn_norm": "ln_1",
    "attn_qkv": "attn.c_attn",
    "attn_output": "attn.c_proj",
    "ffn_norm": "ln_2",
    "ffn_up": "mlp.c_fc",
    "ffn_down": "mlp.c_proj",
}
_NEOX = {
    "attn_norm": "input_layernorm",
    "attn_qkv": "attention.query_key_value",
    "attn_output": "attention.dense",
    "ffn_norm": "post_attention_layernorm",
    "ffn_up": "mlp.dense_h_to_4h",
    "ffn_down": "mlp.dense_4h_to_h",
}
_OUTER = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
}
_GPT2_OUTER = {
    "token_embd": "transformer.wte",
    "position_embd": "transformer.wpe",
    "output_norm": "transformer.ln_f",
    "output": "lm_head",
}
_NEOX_OUTER = {
    "token_embd": "gpt_neox.embed_in",
    "output_norm": "gpt_neox.final_layer_norm",
    "output": "embed_out",
}
_MIXTURE = "llama with experts"
_DIALECTS = {
    "llama": GgufDialect("llama", "LlamaForCausalLM", _DENSE, _OUTER, order="rotated"),
    _MIXTURE: GgufDialect("mixtral", "MixtralForCausalLM", _MIXTRAL, _OUTER, order="rotated"),
    "qwen2": GgufDialect("qwen2", "Qwen2ForCausalLM", _DENSE, _OUTER),
    "qwen3": GgufDialect("qwen3", "Qwen3ForCausalLM", _DENSE, _OUTER),
    "qwen2moe": GgufDialect("qwen2_moe", "Qwen2MoeForCausalLM", _SHARED, _OUTER),
    "qwen3moe": GgufDialect("qwen3_moe", "Qwen3MoeForCausalLM", _EXPERTS, _OUTER),
    "olmoe": GgufDialect("olmoe", "OlmoeForCausalLM", _EXPERTS, _OUTER),
    "gemma2": GgufDialect("gemma2", "Gemma2ForCausalLM", _GEMMA, _OUTER, norm_shift=1.0),
    "gemma3": GgufDialect("gemma3_text", "Gemma3ForCausalLM", _GEMMA, _OUTER, norm_shift=1.0),
    "phi3": GgufDialect("phi3", "Phi3ForCausalLM", _PHI3, _OUTER),
    "gpt2": GgufDialect(
        "gpt2", "GPT2LMHeadModel", _GPT2, _GPT2_OUTER, "transformer.h.", transposes=True
    ),
    "gptneox": GgufDialect(
        "gpt_neox", "GPTNeoXForCausalLM", _NEOX, _NEOX_OUTER, "gpt_neox.layers.", order="fused"
    ),
}
"""`general.architecture` -> dialect; llama.cpp calls mistral and mixtral a llama, too."""


def dialect_of(file: GgufFile) -> GgufDialect:
    """Return the dialect of a file.

    Raises:
        UnsupportedModelError: The architecture is not known.
    """
    name = require_setting(file, "general.architecture", "a text")
    if name not in _DIALECTS:
        known = ", ".join(known for known in _DIALECTS if known != _MIXTURE)
        raise UnsupportedModelError(
            f"'{file.path}' holds the architecture '{name}', but GGUF files are read of {known} "
            f"only; give the Hugging Face folder of the model."
        )
    if name == "llama" and optional_setting(file, "llama.expert_count", "a whole number"):
        return _DIALECTS[_MIXTURE]
    return _DIALECTS[name]
