"""What transformers says of a config without weights, against what it does with them."""

import copy
from typing import Any

import pytest
import torch

from products import few
from treadle.model.anatomy import PLACES, Anatomy, Unbuilt, spelt_out
from treadle.model.tiny import CONFIGS, model

MLP = "model.layers.1.mlp.up_proj.weight"


def config_of(module: Any) -> dict[str, Any]:
    return {**module.config.to_dict(), "architectures": [type(module).__name__]}


@pytest.mark.parametrize("model_type", few(CONFIGS, "llama", "gemma2", "qwen3_moe"))
def test_a_whole_model_fills_its_own_anatomy(model_type: str, tmp_path) -> None:
    module = model(model_type)
    anatomy = Anatomy(config_of(module))
    shapes = {name: tuple(value.shape) for name, value in module.state_dict().items()}
    assert anatomy.fit(shapes) == ([], [], [])
    assert anatomy.parameters == set(shapes)


def test_what_is_missing_unread_or_misshapen_is_told() -> None:
    module = model("llama")
    anatomy = Anatomy(config_of(module))
    shapes = {name: tuple(value.shape) for name, value in module.state_dict().items()}
    del shapes[MLP]
    shapes["model.layers.2.mlp.up_proj.weight"] = (96, 64)
    shapes["model.norm.weight"] = (65,)
    assert anatomy.fit(shapes) == (
        [MLP],
        ["model.layers.2.mlp.up_proj.weight"],
        [("model.norm.weight", (65,), (64,))],
    )


def test_a_tied_head_is_not_missing_and_one_of_four_experts_is() -> None:
    module = model("llama")
    shapes = {name: tuple(value.shape) for name, value in module.state_dict().items()}
    del shapes["lm_head.weight"]
    assert Anatomy(config_of(module)).fit(shapes).missing == []
    experts = {"w1": (96, 64), "w2": (64, 96), "w3": (96, 64)}
    config = config_of(model("mixtral"))
    full = {
        f"model.layers.{layer}.block_sparse_moe.experts.{expert}.{name}.weight": shape
        for layer in (0, 1)
        for expert in range(4)
        for name, shape in experts.items()
    }
    missing = set(Anatomy(config).fit(full).missing)
    assert not any("experts" in name for name in missing)
    del full["model.layers.1.block_sparse_moe.experts.3.w1.weight"]
    found = Anatomy(config).fit(full).missing
    assert "model.layers.1.mlp.experts.gate_up_proj" in found


def test_layers_are_compared_by_what_their_modules_hold() -> None:
    config = config_of(model("gemma2", num_hidden_layers=4))
    anatomy = Anatomy(config)
    tensor = "model.layers.0.mlp.up_proj.weight"
    assert not list(anatomy.layer_differences(tensor, {0: 2, 1: 3, 2: 0, 3: 1}, anatomy))
    found = list(anatomy.layer_differences(tensor, {0: 0, 1: 2}, anatomy))
    assert {one.layer for one in found} == {1}
    assert ("self_attn.sliding_window", None, 24) in {one[1:] for one in found}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"model_type": "unheard"}, "does not know the model_type 'unheard'"),
        ({"num_attention_heads": 7}, "7"),
    ],
)
def test_what_cannot_be_built_is_said(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(Unbuilt, match=says):
        Anatomy({**config_of(model("llama")), **changes})


def test_defaults_and_infinities_are_spelt_out() -> None:
    found = spelt_out({"model_type": "gemma2", "num_hidden_layers": 3})
    assert found["layer_types"] == ["sliding_attention", "full_attention", "sliding_attention"]
    found = spelt_out({"model_type": "llama", "my_limit": {"__float__": "Infinity"}})
    assert found["my_limit"] == float("inf")


def test_asking_leaves_transformers_as_it_was(caplog) -> None:
    from transformers.utils import logging

    before = logging.get_verbosity(), logging.is_progress_bar_enabled()
    Anatomy(config_of(model("llama"))).fit({})
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before
    assert not caplog.text


@pytest.mark.slow
@pytest.mark.parametrize("model_type", CONFIGS)
def test_only_known_attributes_count_the_layers(model_type: str) -> None:
    """Layers of one kind differ in nothing but attributes that say where they stand."""
    module = model(model_type, num_hidden_layers=6)
    anatomy = Anatomy(config_of(module))
    stack = next(m for m in module.modules() if isinstance(m, torch.nn.ModuleList) and len(m) == 6)
    name = next(n for n, m in module.named_modules() if m is stack)
    tensor = next(n for n in module.state_dict() if n.startswith(f"{name}.0."))
    types = getattr(module.config, "layer_types", None) or ["one kind"] * 6
    for place, kind in enumerate(types):
        same = types.index(kind)
        found = list(anatomy.layer_differences(tensor, {place: same}, copy.copy(anatomy)))
        assert not found
    assert "layer_idx" in PLACES
