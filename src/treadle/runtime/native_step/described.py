"""What the native step takes from transformers of a model beside its weights: numbers alone.

To ask for them takes the whole of torch and of transformers' modelling, seconds of every start. So
they are noted once the step was seen to agree with them (`choice.py`), and read from then on.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from treadle.core.checkpoint import CheckpointReader
from treadle.core.errors import UnsupportedModelError
from treadle.model import facts
from treadle.model.rope import RopeLengths, RotaryFactors
from treadle.runtime.native_step.names import LLAMA_LIKE, NAMES
from treadle.runtime.native_step.rope import FixedRope, Rope, ropes_of

__all__ = ["ACTIVATIONS", "Described", "ask", "from_note", "to_note"]

ACTIVATIONS = {
    **{"silu": 0, "swish": 0, "gelu_pytorch_tanh": 1, "gelu_new": 1, "gelu_fast": 1},
    **{"gelu": 2, "relu": 3, "quick_gelu": 4},
}
"""Name in transformers -> number in step_model.h."""
_EXPECTED = {
    "opt": {"do_layer_norm_before": True, "_remove_final_layer_norm": False},
    "gpt2": {"add_cross_attention": False},
}
"""`model_type` -> what its config must say, because the step computes nothing else."""
_LISTS = ("scales", "windows", "are_sliding", "turned")
Config = Mapping[str, Any]  # Any: JSON values of config.json


class Described(NamedTuple):
    """A model but for its weights."""

    ropes: tuple[Rope, Rope]
    """Of layers with full attention, and of sliding ones."""
    lengths: RopeLengths
    max_positions: int
    epsilon: float
    activation: str
    final_cap: float
    attention_cap: float
    scales: tuple[float, ...]
    """Of each layer's products of queries and keys."""
    windows: tuple[int, ...]
    """Of each layer; 0: it sees all."""
    are_sliding: tuple[bool, ...]
    """Whether each layer turns by the second rope."""
    turned: tuple[int, ...]
    """Numbers of a head that turn in each layer, the first ones; 0: its positions do not count."""
    clip: float
    """Largest number of queries, keys and values; 0: any."""
    is_centred: bool
    """Whether norms of the residual stream take the mean away."""
    is_parallel: bool
    """Whether both branches of a block read what the block gets."""
    top_k: int
    """Experts that a token meets; 0: the model is no mixture."""
    is_normed: bool
    """Whether their shares add up to one."""


def ask(reader: CheckpointReader, config: Config) -> Described:
    """Let transformers describe a model.

    Raises:
        UnsupportedModelError: The native step does not compute such a one.
        CheckpointError: The weights do not belong to the config.
    """
    from torch.nn import LayerNorm

    from treadle.model.load import skeleton

    if config.get("model_type") not in LLAMA_LIKE:
        raise UnsupportedModelError(
            f"The native step computes {', '.join(LLAMA_LIKE)}, not '{config.get('model_type')}'."
        )
    module: Any = skeleton(reader)  # Any: transformers' module
    factors, settings = RotaryFactors(module), module.config
    _require_expected(config, settings)
    layers = range(facts.num_layers(dict(config)))
    blocks = [module.get_submodule(_block(config, n)) for n in layers]
    attentions = [_attention(block) for block in blocks]
    norm = blocks[0].get_submodule(_names(config).norms[0].removesuffix(".weight"))
    kinds = list(getattr(settings, "layer_types", None) or [])
    slides = tuple(kinds[n : n + 1] == ["sliding_attention"] for n in layers)
    window = getattr(settings, "sliding_window", None) or 0
    ropes = ropes_of(getattr(module.base_model, "rotary_emb", None), factors)
    return Described(
        ropes,
        factors.lengths,
        max(settings.max_position_embeddings, factors.longest),
        norm.eps if hasattr(norm, "eps") else norm.variance_epsilon,
        _activation(config, settings),
        getattr(settings, "final_logit_softcapping", None) or 0.0,
        getattr(settings, "attn_logit_softcapping", None) or 0.0,
        tuple(one.scaling for one in attentions),
        tuple(window if is_sliding or not kinds else 0 for is_sliding in slides),
        slides,
        tuple(
            2 * ropes[is_sliding].width if getattr(one, "use_rope", True) else 0
            for one, is_sliding in zip(attentions, slides, strict=True)
        ),
        getattr(settings, "clip_qkv", None) or 0.0,
        isinstance(norm, LayerNorm),
        bool(getattr(settings, "use_parallel_residual", False)),
        getattr(settings, "num_experts_per_tok", None) or 0,
        config["model_type"] == "mixtral" or bool(getattr(settings, "norm_topk_prob", False)),
    )


def _names(config: Config) -> Any:
    return NAMES[config["model_type"]]


def _block(config: Config, layer: int) -> str:
    return facts.facts_of(dict(config)).blocks.format(layer=layer)[:-1]


def _attention(block: Any) -> Any:  # Any: modules of transformers
    return next(part for part in block.children() if hasattr(part, "scaling"))


def _require_expected(config: Config, settings: Any) -> None:  # Any: a config of transformers
    expected = dict(_EXPECTED.get(config["model_type"], {}))
    if config["model_type"] == "opt":
        expected |= {"word_embed_proj_dim": settings.hidden_size}
        expected |= {"layer_norm_elementwise_affine": True}
    for key, wanted in expected.items():
        found = getattr(settings, key, wanted)
        if found != wanted:
            raise UnsupportedModelError(
                f"The native step computes {config['model_type']} with {key} = {wanted}, and the "
                f"config says {found}."
            )


def _activation(config: Config, settings: Any) -> str:  # Any: a config of transformers
    keys = ("hidden_activation", "hidden_act", "activation_function")
    name = next(found for key in keys if (found := getattr(settings, key, None)))
    if name not in ACTIVATIONS:
        raise UnsupportedModelError(
            f"The native step has no activation '{name}' ({config['model_type']}), only "
            f"{', '.join(ACTIVATIONS)}."
        )
    return str(name)


def to_note(found: Described) -> dict[str, Any] | None:
    """Return a description as JSON holds it; None where each length of a text has own factors."""
    ropes = [_rope_note(rope) for rope in found.ropes if isinstance(rope, FixedRope)]
    if len(ropes) < len(found.ropes):
        return None
    return {**found._asdict(), "ropes": ropes, "lengths": found.lengths._asdict()}


def _rope_note(rope: FixedRope) -> dict[str, Any]:
    return {"frequencies": rope.frequencies.tolist(), "scaling": rope.scaling.tolist()}


def from_note(noted: Any) -> Described | None:  # Any: a JSON value
    """Return what `to_note` made a note of; None where this is no such note."""
    if not isinstance(noted, dict) or set(noted) != set(Described._fields):
        return None
    full, sliding = (
        FixedRope(*(np.asarray(one[name], np.float32) for name in FixedRope._fields))
        for one in noted["ropes"]
    )
    lengths = RopeLengths(tuple(noted["lengths"]["bounds"]))
    lists = {name: tuple(noted[name]) for name in _LISTS}
    is_one = noted["ropes"][0] == noted["ropes"][1]
    ropes = (full, full if is_one else sliding)
    return Described(**{**noted, **lists, "ropes": ropes, "lengths": lengths})
