"""What treadle knows about each `model_type`, as data: where the matrices of a block stand."""

from typing import Literal, NamedTuple

__all__ = ["ARCHITECTURES", "Architecture", "LinearFact"]


class LinearFact(NamedTuple):
    """Where one role's matrix stands, inside a block."""

    role: str
    """q k v o gate up down, or fused: qkv (attention), fc (an ungated MLP's first matrix)."""
    tensor: str
    """Name on disk inside the block; ``{expert}`` stands for the number of an expert."""
    input: str
    part: str = ""
    """Which rows of a fused matrix: q, k, v, gate or up."""
    transposed: bool = False


class Architecture(NamedTuple):
    """What treadle knows about one `model_type`."""

    blocks: str
    """Prefix of a decoder block, on disk and in the module: ``model.layers.{layer}.``"""
    linears: tuple[LinearFact, ...]
    expert_linears: tuple[LinearFact, ...] = ()
    num_experts: tuple[str, ...] = ()
    """Config keys of the number of experts: transformers 5 renamed some."""
    neurons: tuple[str, ...] = ("intermediate_size",)
    """Config keys that state the MLP width: of the dense MLP, then of the experts, then of the
    shared expert."""
    head_width: str = "head_dim"
    """Config key of a head's width; empty where the architecture derives it from hidden / heads."""
    kv_heads: str = "num_key_value_heads"
    head_attributes: tuple[tuple[str, Literal["heads", "kv_heads", "width"]], ...] = ()
    """Attributes of a block's module that state its numbers of heads or its attention's width,
    where it does not read them off its matrices."""
    renames: tuple[tuple[str, str], ...] = ()
    """Part of a name on disk -> that part in the module."""
    has_learned_positions: bool = False
    """Whether a table of positions bounds the length of its windows."""
    norms_all_heads: bool = False
    """Whether queries of all heads are normed together, so that no head can go by itself."""
    prefix: str = "model."
    """What old checkpoints may leave out of their tensor names."""
    routers: tuple[str, ...] = ()
    """Matrices of a block that are no linears here, because nothing but routing reads them."""


_ATTENTION = tuple(
    LinearFact(role, f"self_attn.{role}_proj.weight", "attn_in" if role != "o" else "o_in")
    for role in ("q", "k", "v", "o")
)


def _gated(
    prefix: str,
    suffix: str = "",
    names: tuple[str, str, str] = ("gate_proj", "up_proj", "down_proj"),
) -> tuple[LinearFact, ...]:
    gate, up, down = names
    return (
        LinearFact("gate", f"{prefix}.{gate}.weight", f"{suffix}mlp_in"),
        LinearFact("up", f"{prefix}.{up}.weight", f"{suffix}mlp_in"),
        LinearFact("down", f"{prefix}.{down}.weight", f"{suffix}down_in"),
    )


def _ungated(fc: str, down: str) -> tuple[LinearFact, ...]:
    return (
        LinearFact("fc", f"{fc}.weight", "mlp_in"),
        LinearFact("down", f"{down}.weight", "down_in"),
    )


_LLAMA = Architecture("model.layers.{layer}.", _ATTENTION + _gated("mlp"))
_QWEN_EXPERTS = _gated("mlp.experts.{expert}", "expert_")

ARCHITECTURES = {
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
    "gemma": _LLAMA,
    "gemma2": _LLAMA,
    "gemma3_text": _LLAMA,
    "granite": _LLAMA,
    "smollm3": _LLAMA,
    "cohere2": _LLAMA,
    "starcoder2": Architecture(
        "model.layers.{layer}.", _ATTENTION + _ungated("mlp.c_fc", "mlp.c_proj")
    ),
    "phi": Architecture(
        "model.layers.{layer}.",
        (
            *_ATTENTION[:3],
            LinearFact("o", "self_attn.dense.weight", "o_in"),
            *_ungated("mlp.fc1", "mlp.fc2"),
        ),
        head_width="",
    ),
    "phi3": Architecture(
        "model.layers.{layer}.",
        (
            LinearFact("q", "self_attn.qkv_proj.weight", "attn_in", part="q"),
            LinearFact("k", "self_attn.qkv_proj.weight", "attn_in", part="k"),
            LinearFact("v", "self_attn.qkv_proj.weight", "attn_in", part="v"),
            LinearFact("o", "self_attn.o_proj.weight", "o_in"),
            LinearFact("gate", "mlp.gate_up_proj.weight", "mlp_in", part="gate"),
            LinearFact("up", "mlp.gate_up_proj.weight", "mlp_in", part="up"),
            LinearFact("down", "mlp.down_proj.weight", "down_in"),
        ),
        head_attributes=(
            ("self_attn.config.num_attention_heads", "heads"),
            ("self_attn.num_key_value_heads", "kv_heads"),
        ),
    ),
    "gpt_neox": Architecture(
        "gpt_neox.layers.{layer}.",
        (
            # The rows are interleaved head by head (q, k, v of head 0, then of head 1), so they
            # stay one matrix.
            LinearFact("qkv", "attention.query_key_value.weight", "attn_in"),
            LinearFact("o", "attention.dense.weight", "o_in"),
            LinearFact("fc", "mlp.dense_h_to_4h.weight", "mlp_in"),
            LinearFact("down", "mlp.dense_4h_to_h.weight", "down_in"),
        ),
        head_width="",
        kv_heads="num_attention_heads",
        renames=(("embed_out.", "lm_head."),),
        prefix="gpt_neox.",
    ),
    "opt": Architecture(
        "model.decoder.layers.{layer}.",
        (
            LinearFact("q", "self_attn.q_proj.weight", "attn_in"),
            LinearFact("k", "self_attn.k_proj.weight", "attn_in"),
            LinearFact("v", "self_attn.v_proj.weight", "attn_in"),
            LinearFact("o", "self_attn.out_proj.weight", "o_in"),
            LinearFact("fc", "fc1.weight", "mlp_in"),
            LinearFact("down", "fc2.weight", "down_in"),
        ),
        neurons=("ffn_dim",),
        head_width="",
        kv_heads="num_attention_heads",
        head_attributes=(("self_attn.num_heads", "heads"),),
        has_learned_positions=True,
    ),
    "gpt2": Architecture(
        "transformer.h.{layer}.",
        (
            LinearFact("q", "attn.c_attn.weight", "attn_in", part="q", transposed=True),
            LinearFact("k", "attn.c_attn.weight", "attn_in", part="k", transposed=True),
            LinearFact("v", "attn.c_attn.weight", "attn_in", part="v", transposed=True),
            LinearFact("o", "attn.c_proj.weight", "o_in", transposed=True),
            LinearFact("fc", "mlp.c_fc.weight", "mlp_in", transposed=True),
            LinearFact("down", "mlp.c_proj.weight", "down_in", transposed=True),
        ),
        neurons=("n_inner",),
        head_width="",
        kv_heads="num_attention_heads",
        head_attributes=(("attn.split_size", "width"),),
        has_learned_positions=True,
        prefix="transformer.",
    ),
    "mixtral": Architecture(
        "model.layers.{layer}.",
        _ATTENTION,
        _gated("block_sparse_moe.experts.{expert}", "expert_", ("w1", "w3", "w2")),
        num_experts=("num_local_experts",),
        routers=("block_sparse_moe.gate.weight",),
        renames=(("block_sparse_moe.", "mlp."),),
    ),
    "qwen2_moe": Architecture(
        "model.layers.{layer}.",
        _ATTENTION + _gated("mlp") + _gated("mlp.shared_expert", "shared_"),
        _QWEN_EXPERTS,
        num_experts=("num_experts", "num_local_experts"),
        neurons=("intermediate_size", "moe_intermediate_size", "shared_expert_intermediate_size"),
        routers=("mlp.gate.weight", "mlp.shared_expert_gate.weight"),
    ),
    "qwen3_moe": Architecture(
        "model.layers.{layer}.",
        _ATTENTION + _gated("mlp"),
        _QWEN_EXPERTS,
        num_experts=("num_experts", "num_local_experts"),
        neurons=("intermediate_size", "moe_intermediate_size"),
        routers=("mlp.gate.weight",),
    ),
    "olmoe": Architecture(
        "model.layers.{layer}.",
        _ATTENTION,
        _QWEN_EXPERTS,
        num_experts=("num_experts", "num_local_experts"),
        norms_all_heads=True,
        routers=("mlp.gate.weight",),
    ),
}
"""`model_type` of config.json -> its facts."""
