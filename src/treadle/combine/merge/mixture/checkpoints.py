"""Layouts of mixtures that transformers has, as data: which dense models become which, and how."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from treadle.core.errors import UnsupportedModelError

__all__ = ["LAYOUTS", "MixtureLayout", "layout_of", "mixture_config"]

Config = dict[str, Any]  # Any: JSON values of config.json

_ROPE = "rope_parameters"
"""What transformers reads from version 5 on; programs of before read two keys instead."""
_SHARED_WIDTH = 64
"""Neurons of a shared expert that adds nothing, at most: a layout wants one."""


class MixtureLayout(NamedTuple):
    """How a mixture is stored and described."""

    model_type: str
    """Whose facts say what tensors are called."""
    architecture: str
    num_experts: str
    """Key of config.json of how many experts there are; likewise the width of each."""
    width: str
    states: Mapping[str, Any]  # Any: JSON values
    """What config.json says beside that, in all mixtures."""
    wants: Mapping[str, Any] = {}  # Any: JSON values; never changed
    """Keys of a dense config.json that the mixture has no word for -> the value that they need."""
    has_shared: bool = False
    """Whether an expert that sees every token belongs to each MLP."""
    has_layer_types: bool = True
    """Whether single layers may look back less far than others."""


_ROUTED = {
    "norm_topk_prob": True,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
    "output_router_logits": False,
    "router_aux_loss_coef": 0.001,
}
_MIXTRAL = MixtureLayout(
    model_type="mixtral",
    architecture="MixtralForCausalLM",
    num_experts="num_local_experts",
    width="intermediate_size",
    states={
        "output_router_logits": False,
        "router_aux_loss_coef": 0.001,
        "router_jitter_noise": 0.0,
    },
    wants={"attention_bias": False, "mlp_bias": False},
)
LAYOUTS = {
    "llama": _MIXTRAL,
    "mistral": _MIXTRAL,
    "qwen2": MixtureLayout(
        model_type="qwen2_moe",
        architecture="Qwen2MoeForCausalLM",
        num_experts="num_experts",
        width="moe_intermediate_size",
        states={**_ROUTED, "qkv_bias": True},
        has_shared=True,
    ),
    "qwen3": MixtureLayout(
        model_type="qwen3_moe",
        architecture="Qwen3MoeForCausalLM",
        num_experts="num_experts",
        width="moe_intermediate_size",
        states=_ROUTED,
        has_layer_types=False,
    ),
}
"""`model_type` of dense models -> the mixture that computes the same around its MLPs."""


def layout_of(config: Mapping[str, Any], name: str) -> MixtureLayout:  # Any: JSON values
    """Return what models of a config become.

    Args:
        config: Of a dense model.
        name: What errors call the model.

    Raises:
        UnsupportedModelError: transformers has no mixture with such attention.
    """
    kind = str(config.get("model_type", ""))
    if kind not in LAYOUTS:
        raise UnsupportedModelError(
            f"'{name}' is of model_type '{kind}', and transformers has no mixture that is the same "
            f"around its MLPs; give dense models of one of these types: {', '.join(LAYOUTS)}."
        )
    layout = LAYOUTS[kind]
    for key, value in layout.wants.items():
        if config.get(key, value) != value:
            raise UnsupportedModelError(
                f"config.json of '{name}' says {key}: {config[key]!r}, which a "
                f"{layout.architecture} cannot say; give models without it."
            )
    return layout


def mixture_config(
    dense: Mapping[str, Any],  # Any: JSON values
    spelt: Mapping[str, Any],
    blank: Mapping[str, Any],
    layout: MixtureLayout,
    num_experts: int,
    experts_per_token: int,
) -> Config:
    """Return the config.json of a mixture.

    What both kinds of config know is taken over, also what the dense one leaves to its class where
    the mixture's class has another default; what the mixture has no word for is left out.

    Args:
        dense: The config of the dense model, as it is written.
        spelt: The same, with all that it leaves to its class.
        blank: A mixture's config of this layout that says nothing, likewise spelt out.
        layout: Of the mixture.
        num_experts: In each MLP.
        experts_per_token: How many of them a token goes to.

    Raises:
        UnsupportedModelError: Layers look back differently far, and the mixture cannot say so.
    """
    known = {key: value for key, value in spelt.items() if key in blank}
    found = {k: v for k, v in known.items() if k in dense or v != blank[k]}
    found |= _turned(dense, spelt)
    if spelt.get("head_dim") is not None:
        found["head_dim"] = spelt["head_dim"]
    if not layout.has_layer_types:
        found |= _one_window(spelt, layout)
    width = spelt["intermediate_size"]
    found |= layout.states
    found |= {
        "architectures": [layout.architecture],
        "model_type": layout.model_type,
        "dtype": dense.get("dtype", dense.get("torch_dtype")),
        layout.num_experts: num_experts,
        "num_experts_per_tok": experts_per_token,
        layout.width: width,
    }
    if layout.has_shared:
        found["shared_expert_intermediate_size"] = min(width, _SHARED_WIDTH)
    return found


def _turned(dense: Mapping[str, Any], spelt: Mapping[str, Any]) -> Config:  # Any: JSON values
    """Return how positions turn, in words of before and after transformers 5."""
    rope = spelt[_ROPE]
    found: Config = {_ROPE: rope}
    if "rope_theta" in rope:
        found["rope_theta"] = rope["rope_theta"]
    if dense.get("rope_scaling") is not None:
        found["rope_scaling"] = dense["rope_scaling"]
    return found


def _one_window(spelt: Mapping[str, Any], layout: MixtureLayout) -> Config:  # Any: JSON values
    """Return how far all layers look back, where a config can say it of all together only."""
    kinds = set(spelt.get("layer_types") or ["full_attention"])
    if len(kinds) > 1:
        raise UnsupportedModelError(
            f"The models' layers are {' and '.join(sorted(kinds))}, and a {layout.architecture} "
            f"has layers of one kind; give models whose layers all look back equally far."
        )
    is_sliding = kinds == {"sliding_attention"}
    window = spelt.get("sliding_window") if is_sliding else None
    return {"use_sliding_window": is_sliding, "sliding_window": window}
