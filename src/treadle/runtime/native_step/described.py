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
from treadle.runtime.native_step.rope import FixedRope, Rope, ropes_of

__all__ = [
    "ACTIVATIONS",
    "GEMMA_NORMS",
    "LLAMA_LIKE",
    "LLAMA_NORMS",
    "Described",
    "ask",
    "from_note",
    "to_note",
]

LLAMA_LIKE = ("llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3_text")
"""`model_type`s that the native step computes."""
ACTIVATIONS = {"silu": 0, "gelu_pytorch_tanh": 1}
_QK_NORMS = ("self_attn.q_norm.weight", "self_attn.k_norm.weight")
LLAMA_NORMS = (
    *("input_layernorm.weight", "post_attention_layernorm.weight", "(none)", "(none)"),
    *_QK_NORMS,
)
GEMMA_NORMS = (
    *("input_layernorm.weight", "pre_feedforward_layernorm.weight"),
    *("post_attention_layernorm.weight", "post_feedforward_layernorm.weight"),
    *_QK_NORMS,
)
"""A block's vectors, in the order of the struct Layer's; (none) where it has no such norm."""
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


def ask(reader: CheckpointReader, config: Config) -> Described:
    """Let transformers describe a model.

    Raises:
        UnsupportedModelError: The native step does not compute such a one.
        CheckpointError: The weights do not belong to the config.
    """
    from treadle.model.load import skeleton

    if config.get("model_type") not in LLAMA_LIKE:
        raise UnsupportedModelError(
            f"The native step computes {', '.join(LLAMA_LIKE)}, not '{config.get('model_type')}'."
        )
    module: Any = skeleton(reader)  # Any: transformers' module
    factors, settings = RotaryFactors(module), module.config
    layers = range(facts.num_layers(dict(config)))
    kinds = list(getattr(settings, "layer_types", None) or [])
    slides = tuple(kinds[n : n + 1] == ["sliding_attention"] for n in layers)
    window = getattr(settings, "sliding_window", None) or 0
    return Described(
        ropes_of(module.model.rotary_emb, facts.head_dim(dict(config)), factors),
        factors.lengths,
        max(settings.max_position_embeddings, factors.longest),
        settings.rms_norm_eps,
        _activation(config, settings),
        getattr(settings, "final_logit_softcapping", None) or 0.0,
        getattr(settings, "attn_logit_softcapping", None) or 0.0,
        tuple(module.model.layers[n].self_attn.scaling for n in layers),
        tuple(window if is_sliding or not kinds else 0 for is_sliding in slides),
        slides,
    )


def _activation(config: Config, settings: Any) -> str:  # Any: a config of transformers
    name = getattr(settings, "hidden_activation", None) or settings.hidden_act
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
    lists = {name: tuple(noted[name]) for name in ("scales", "windows", "are_sliding")}
    is_one = noted["ropes"][0] == noted["ropes"][1]
    ropes = (full, full if is_one else sliding)
    return Described(**{**noted, **lists, "ropes": ropes, "lengths": lengths})
