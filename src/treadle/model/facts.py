"""Roles of tensors per architecture, as data.

A *linear* here is a matrix [out, in] as the paper sees it, whatever the checkpoint does with it: a
slice of rows of a fused matrix (phi3), a transposed matrix (GPT-2's Conv1D) or one of many experts.
Its *input* names the unique activation it reads: q, k and v share one, gate and up share one.
"""

from typing import Any, Literal, NamedTuple

from treadle.core.errors import CheckpointError, SettingsError, UnsupportedModelError
from treadle.core.registry import near

__all__ = [
    "ARCHITECTURES",
    "Architecture",
    "Linear",
    "LinearFact",
    "facts_of",
    "linears",
    "num_layers",
]

Config = dict[str, Any]  # Any: JSON values of config.json


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
    prefix: str = "model."
    """What old checkpoints may leave out of their tensor names."""


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


_LLAMA = Architecture("model.layers.{layer}.", _ATTENTION + _gated("mlp"))
_QWEN_EXPERTS = _gated("mlp.experts.{expert}", "expert_")

ARCHITECTURES = {
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
    "gemma2": _LLAMA,
    "gemma3_text": _LLAMA,
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
        renames=(("block_sparse_moe.", "mlp."),),
    ),
    "qwen2_moe": Architecture(
        "model.layers.{layer}.",
        _ATTENTION + _gated("mlp") + _gated("mlp.shared_expert", "shared_"),
        _QWEN_EXPERTS,
        num_experts=("num_experts", "num_local_experts"),
        neurons=("intermediate_size", "moe_intermediate_size", "shared_expert_intermediate_size"),
    ),
    "qwen3_moe": Architecture(
        "model.layers.{layer}.",
        _ATTENTION + _gated("mlp"),
        _QWEN_EXPERTS,
        num_experts=("num_experts", "num_local_experts"),
        neurons=("intermediate_size", "moe_intermediate_size"),
    ),
}
"""`model_type` of config.json -> its facts."""


class Linear(NamedTuple):
    """One matrix of one block: where it is on disk and in the module, and what it reads."""

    role: str
    input: str
    """Unique inside the block; of an expert's matrix it carries the expert's number."""
    layer: int
    tensor: str
    """Full name on disk."""
    parameter: str
    """Name of the module's parameter inside the block."""
    rows: slice
    """Rows [out] of the matrix on disk that belong to it."""
    transposed: bool
    expert: int | None = None
    parameter_rows: slice = slice(None)
    """Rows of the module's parameter, where that is fused more than the disk is."""

    @property
    def name(self) -> str:
        """The tensor's name, with the rows where it is a part of a fused matrix."""
        return self.tensor if self.rows == slice(None) else f"{self.tensor}[{self.role}]"


def facts_of(config: Config) -> Architecture:
    """Return the facts of a model's architecture.

    Raises:
        UnsupportedModelError: There are none; the message says how to add them.
    """
    model_type = str(config.get("model_type", ""))
    if model_type not in ARCHITECTURES:
        raise UnsupportedModelError(
            f"config.json says model_type '{model_type}', for which treadle has no facts. "
            f"{near(model_type, ARCHITECTURES)} To add an architecture, write its line in "
            f"ARCHITECTURES of "
            f"treadle/model/facts.py and a config in treadle/model/tiny.py; the conformance tests "
            f"then cover it."
        )
    return ARCHITECTURES[model_type]


def _get(config: Config, *keys: str) -> int:
    for key in keys:
        if config.get(key) is not None:
            return int(config[key])
    raise UnsupportedModelError(
        f"config.json of model_type '{config.get('model_type')}' has none of the keys "
        f"{', '.join(keys)}; "
        f"add the one that this architecture uses."
    )


def num_layers(config: Config) -> int:
    """Return the number of decoder blocks."""
    return _get(config, "num_hidden_layers", "n_layer")


def num_heads(config: Config) -> int:
    """Return the number of query heads."""
    return _get(config, "num_attention_heads", "n_head")


def num_kv_heads(config: Config) -> int:
    """Return the number of key-value heads."""
    facts = facts_of(config)
    return int(config.get(facts.kv_heads) or num_heads(config))


def head_dim(config: Config) -> int:
    """Return the width of one head."""
    facts = facts_of(config)
    if facts.head_width and config.get(facts.head_width):
        return int(config[facts.head_width])
    return _get(config, "hidden_size", "n_embd") // num_heads(config)


def require_positions(config: Config, num_tokens: int) -> None:
    """Check that a window of `num_tokens` fits a table of learned positions.

    Raises:
        SettingsError: It does not.
    """
    if not facts_of(config).has_learned_positions:
        return
    num_positions = _get(config, "max_position_embeddings", "n_positions")
    if num_tokens > num_positions:
        raise SettingsError(
            f"A window of {num_tokens} tokens does not fit a model of {num_positions} positions; "
            f"use shorter windows."
        )


def _part_rows(fact: LinearFact, config: Config, out_size: int) -> slice:
    if not fact.part:
        return slice(None)
    if fact.part in ("gate", "up"):
        half = out_size // 2
        return slice(0, half) if fact.part == "gate" else slice(half, out_size)
    # Read from the size on disk, so that blocks whose heads were pruned are cut in the right
    # places.
    ratio = num_heads(config) // num_kv_heads(config)
    kv_size = out_size // (ratio + 2)
    starts = {"q": 0, "k": ratio * kv_size, "v": (ratio + 1) * kv_size}
    return slice(
        starts[fact.part], starts[fact.part] + (ratio if fact.part == "q" else 1) * kv_size
    )


def _renamed(name: str, facts: Architecture) -> str:
    for old, new in facts.renames:
        name = name.replace(old, new)
    return name


def linears(config: Config, layer: int, shapes: dict[str, tuple[int, ...]]) -> list[Linear]:
    """Return the matrices of block `layer`, in the order in which the block runs them.

    `shapes` are those on disk by full name. Only in a mixture may the MLP's tensors be absent: its
    blocks are dense or of experts. The router of a mixture is not a linear: it is never pruned.

    Raises:
        CheckpointError: A tensor that belongs to the block is not there.
    """
    facts = facts_of(config)
    prefix = block_prefix(config, layer, shapes)
    _require(
        shapes,
        [
            prefix + fact.tensor
            for fact in facts.linears
            if not facts.num_experts or fact.input in ("attn_in", "o_in")
        ],
    )
    found: list[Linear] = []
    for fact in facts.linears:
        tensor = prefix + fact.tensor
        if tensor in shapes:
            size = shapes[tensor][1 if fact.transposed else 0]
            rows = _part_rows(fact, config, size)
            parameter = _renamed(fact.tensor, facts)
            found.append(
                Linear(
                    fact.role,
                    fact.input,
                    layer,
                    tensor,
                    parameter,
                    rows,
                    fact.transposed,
                    None,
                    rows,
                )
            )
    if facts.num_experts:
        found += _expert_linears(config, facts, layer, prefix, shapes)
    return found


def _require(shapes: dict[str, tuple[int, ...]], tensors: list[str]) -> None:
    for tensor in tensors:
        if tensor not in shapes:
            raise CheckpointError(
                f"Tensor '{tensor}' is missing from the checkpoint; download it again, or check "
                f"that config.json belongs to these weights."
            )


def _expert_linears(
    config: Config, facts: Architecture, layer: int, prefix: str, shapes: dict[str, tuple[int, ...]]
) -> list[Linear]:
    found = []
    named = {
        prefix + fact.tensor.format(expert=expert)
        for expert in range(_get(config, *facts.num_experts))
        for fact in facts.expert_linears
    }
    if not named.isdisjoint(shapes):
        _require(shapes, sorted(named))
    for expert in range(_get(config, *facts.num_experts)):
        for fact in facts.expert_linears:
            tensor = prefix + fact.tensor.format(expert=expert)
            if tensor not in shapes:
                continue
            size = shapes[tensor][0]
            fused = "down_proj" if fact.role == "down" else "gate_up_proj"
            rows = {"gate": slice(0, size), "up": slice(size, 2 * size)}.get(fact.role, slice(None))
            home = _renamed(fact.tensor.split(".{expert}")[0], facts)
            found.append(
                Linear(
                    fact.role,
                    f"{fact.input}.{expert}",
                    layer,
                    tensor,
                    f"{home}.{fused}",
                    slice(None),
                    False,
                    expert,
                    rows,
                )
            )
    return found


def block_prefix(
    config: Config, layer: int, names: dict[str, Any]
) -> str:  # Any: only the keys are read
    """Return the prefix of block `layer` on disk; old checkpoints leave the model's own out."""
    facts = facts_of(config)
    full = facts.blocks.format(layer=layer)
    short = full.removeprefix(facts.prefix)
    return short if any(name.startswith(short) for name in names) else full
