"""Layers in another order: each keeps its kind, whatever the config calls that, in every tower."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from combine.merge.zoo import MIXED, ZOO, built, loaded, logits, reordered, save
from products import few
from treadle.combine.merge import merge_yaml
from treadle.core.errors import SettingsError

KINDS = {
    "gemma3": "model.language_model.layers.",
    "gemma3_text": "model.layers.",
    "gemma2": "model.layers.",
    "qwen2": "model.layers.",
    "smollm3": "model.layers.",
    "gpt_neo": "transformer.h.",
    "gpt2": "transformer.h.",
    "qwen3_next": "model.layers.",
    "llava": "model.language_model.layers.",
    "qwen3_vl": "model.language_model.layers.",
    "mllama": "model.language_model.layers.",
}
ORDER = [3, 1, 0, 1, 2]


def types_of(model_type: str) -> dict[str, Any]:
    """Return what the layers are in that order, written down by hand."""
    full, slide, linear = "full_attention", "sliding_attention", "linear_attention"
    by_hand: dict[str, dict[str, Any]] = {
        "gemma3": {"layer_types": [slide, full, slide, full, full]},
        "gemma3_text": {"layer_types": [slide, full, slide, full, full]},
        "gemma2": {"layer_types": [full, full, slide, full, slide]},
        "qwen2": {"layer_types": [slide, full, full, full, slide]},
        "smollm3": {"no_rope_layers": [0, 1, 1, 1, 1]},
        "qwen3_next": {"layer_types": [full, linear, linear, linear, linear]},
        "mllama": {"cross_attention_layers": [0, 1, 3]},
        "gpt_neo": {"attention_types": [[["local", "local", "global", "local", "global"], 1]]},
    }
    depth = {"gpt_neo": "num_layers", "gpt2": "n_layer"}.get(model_type, "num_hidden_layers")
    return {depth: len(ORDER), **by_hand.get(model_type, {})}


def recipe_of(model: Path, ranges: list[tuple[int, int]], out: Path) -> Path:
    lines = [
        f"- sources: [{{model: {model}, layer_range: [{first}, {stop}]}}]" for first, stop in ranges
    ]
    out.write_text("merge_method: passthrough\nslices:\n" + "\n".join(lines) + "\n")
    return out


@pytest.mark.parametrize("model_type", few(KINDS, "gemma3", "gemma2", "smollm3", "qwen2"))
def test_layers_in_another_order_compute_what_they_did(model_type: str, tmp_path: Path) -> None:
    model = save(model_type, tmp_path / "model")
    ranges = [(layer, layer + 1) for layer in ORDER]
    merge_yaml(recipe_of(model, ranges, tmp_path / "recipe.yml"), tmp_path / "out")
    found = loaded(model_type, tmp_path / "out")
    expected = built(model_type, **types_of(model_type))
    state = loaded(model_type, model).state_dict()
    expected.load_state_dict(reordered(state, KINDS[model_type], ORDER))
    torch.testing.assert_close(logits(found), logits(expected))


def test_a_list_of_another_kind_stays_as_long_as_it_was(tmp_path: Path) -> None:
    """Four tokens end a text in a model of four layers."""
    model = save("gemma3", tmp_path / "model")
    recipe = recipe_of(model, [(0, 1), (2, 4)], tmp_path / "recipe.yml")
    merge_yaml(recipe, tmp_path / "out")
    config = json.loads((tmp_path / "out" / "config.json").read_text())["text_config"]
    assert config["eos_token_id"] == [0, 1, 2, 3]
    assert config["layer_types"] == [MIXED[0], MIXED[2], MIXED[3]]
    assert config["num_hidden_layers"] == 3
    eyes = json.loads((tmp_path / "out" / "config.json").read_text())["vision_config"]
    assert eyes["num_hidden_layers"] == 3


@pytest.mark.parametrize(
    ("model_type", "changes", "says"),
    [
        ("jamba", {}, "Layer 0 of the output .* which its weights come from"),
        ("qwen2_moe", {}, "mlp.class = 'Qwen2MoeMLP', but layer 1, .*'Qwen2MoeSparseMoeBlock'"),
        ("deepseek_v3", {}, "mlp.class = 'DeepseekV3MLP', but layer 1"),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "attn.scaling = "),
    ],
)
def test_an_order_that_no_config_can_say_is_refused(
    model_type: str, changes: dict[str, Any], says: str, tmp_path: Path
) -> None:
    model = save(model_type, tmp_path / "model", **changes)
    recipe = recipe_of(model, [(1, 2), (0, 1), (2, 4)], tmp_path / "recipe.yml")
    with pytest.raises(SettingsError, match=says):
        merge_yaml(recipe, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_unknown_architecture_is_refused_where_its_keys_cannot_say_the_order(
    tmp_path: Path,
) -> None:
    model = save("gemma2", tmp_path / "model")
    file = model / "config.json"
    config = json.loads(file.read_text())
    del config["layer_types"]
    file.write_text(json.dumps({**config, "model_type": "unheard", "sliding_window_pattern": 2}))
    recipe = recipe_of(model, [(1, 3)], tmp_path / "recipe.yml")
    with pytest.raises(SettingsError, match=r"'sliding_window_pattern' of .* cannot say"):
        merge_yaml(recipe, tmp_path / "out")
    recipe = recipe_of(model, [(2, 4)], tmp_path / "recipe.yml")
    result = merge_yaml(recipe, tmp_path / "out")
    assert any("does not know the model_type 'unheard'" in note for note in result.notes)


def modules_of(model: Path, **modules: str) -> str:
    lines = [f"  {name}: {{{content}}}" for name, content in modules.items()]
    return "merge_method: passthrough\nmodules:\n" + "\n".join(lines).replace("MODEL", str(model))


CUTS = {
    ("t5", "decoder"): {"num_decoder_layers": 2, "num_layers": 4},
    ("t5", "encoder"): {"num_decoder_layers": 3, "num_layers": 2},
    ("bart", "encoder"): {"encoder_layers": 2, "decoder_layers": 3},
    ("bart", "decoder"): {"encoder_layers": 4, "decoder_layers": 2},
    ("whisper", "encoder"): {"encoder_layers": 2, "decoder_layers": 3},
    ("whisper", "decoder"): {"encoder_layers": 4, "decoder_layers": 2},
}


@pytest.mark.parametrize("which", few(CUTS, ("t5", "encoder"), ("t5", "decoder")), ids="_".join)
def test_a_module_is_sliced_and_the_others_stay(which: tuple[str, str], tmp_path: Path) -> None:
    model_type, cut = which
    keys = CUTS[which]
    kept = {"encoder", "decoder"} - {cut} | ({"shared"} if model_type != "whisper" else set())
    model = save(model_type, tmp_path / "model")
    slices = "slices: [{sources: [{model: MODEL, layer_range: [0, 1]}]}, "
    slices += "{sources: [{model: MODEL, layer_range: [2, 3]}]}]"
    whole = dict.fromkeys(kept, "models: [{model: MODEL}]")
    (tmp_path / "recipe.yml").write_text(modules_of(model, **{cut: slices}, **whole))
    merge_yaml(tmp_path / "recipe.yml", tmp_path / "out")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert {key: config[key] for key in keys} == keys
    before = loaded(model_type, model)
    name = f"{cut}.block." if model_type == "t5" else f"model.{cut}.layers."
    expected = reordered(before.state_dict(), name, [0, 2])
    found = loaded(model_type, tmp_path / "out").state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(value, expected[key]) for key, value in found.items())


def eyes_of(model: Path, name: str, ranges: list[tuple[int, int]], *others: str) -> str:
    parts = [f"{{sources: [{{model: MODEL, layer_range: [{a}, {b}]}}]}}" for a, b in ranges]
    whole = dict.fromkeys(("text_decoder", *others), "models: [{model: MODEL}]")
    return modules_of(model, **{name: f"slices: [{', '.join(parts)}]"}, **whole)


@pytest.mark.parametrize("name", ["vision_tower", "vision_model"])
def test_eyes_are_sliced_and_the_language_model_stays(name: str, tmp_path: Path) -> None:
    model = save("gemma3", tmp_path / "model")
    recipe = tmp_path / "recipe.yml"
    recipe.write_text(eyes_of(model, name, [(0, 1), (2, 3)], "multi_modal_projector"))
    merge_yaml(recipe, tmp_path / "out")
    found = loaded("gemma3", tmp_path / "out")
    assert found.config.vision_config.num_hidden_layers == 2
    assert found.config.text_config.num_hidden_layers == 4
    before = loaded("gemma3", model).state_dict()
    expected = reordered(before, "model.vision_tower.encoder.layers.", [0, 2])
    assert found.state_dict().keys() == expected.keys()
    assert all(torch.equal(value, expected[key]) for key, value in found.state_dict().items())


@pytest.mark.parametrize(
    ("model_type", "name", "others", "ranges", "says"),
    [
        ("qwen3_vl", "visual", (), [(1, 3)], "'deepstack_visual_indexes' of config.json cannot"),
        ("qwen3_vl", "visual", (), [(0, 2)], ""),
        ("llava", "vision_tower", ("multi_modal_projector",), [(0, 2)], "looks at what layer 1"),
        ("llava", "vision_tower", ("multi_modal_projector",), [(1, 3)], ""),
    ],
)
def test_layers_of_eyes_that_others_look_at_stay(
    model_type: str,
    name: str,
    others: tuple[str, ...],
    ranges: list[tuple[int, int]],
    says: str,
    tmp_path: Path,
) -> None:
    model = save(model_type, tmp_path / "model")
    (tmp_path / "recipe.yml").write_text(eyes_of(model, name, ranges, *others))
    if says:
        with pytest.raises(SettingsError, match=says):
            merge_yaml(tmp_path / "recipe.yml", tmp_path / "out")
    else:
        merge_yaml(tmp_path / "recipe.yml", tmp_path / "out")
        loaded(model_type, tmp_path / "out")


def test_each_tower_has_gradients_of_its_own(tmp_path: Path) -> None:
    """Four layers of text and three of eyes: each gradient goes from its first to its last."""
    models = [save("gemma3", tmp_path / f"m{seed}", seed) for seed in (1, 2)]
    (tmp_path / "recipe.yml").write_text(
        f"merge_method: slerp\nbase_model: {models[0]}\nparameters: {{t: [0, 1]}}\n"
        f"models: [{{model: {models[0]}}}, {{model: {models[1]}}}]\n"
    )
    merge_yaml(tmp_path / "recipe.yml", tmp_path / "out")
    found, first, second = (
        loaded("gemma3", folder).state_dict() for folder in (tmp_path / "out", *models)
    )
    for tower, last in (("vision_tower.encoder", 2), ("language_model", 3)):
        parts = [name for name in found if f"{tower}.layers.0." in name]
        assert parts
        for name in parts:
            torch.testing.assert_close(found[name], first[name])
            name = name.replace(".layers.0.", f".layers.{last}.")
            torch.testing.assert_close(found[name], second[name])


@pytest.mark.parametrize(
    ("modules", "says"),
    [
        ({"text_decoder": "W"}, "say nothing about the parts .*vision_tower.*; add a module"),
        ({"text_decoder": "W", "default": "W"}, "Two modules .* mean the part 'text_decoder'"),
        ({"ears": "W"}, "have no module 'ears'"),
    ],
)
def test_modules_that_are_not_the_models_are_refused(
    modules: dict[str, str], says: str, tmp_path: Path
) -> None:
    model = save("gemma3", tmp_path / "model")
    whole = {name: "models: [{model: MODEL}]" for name in modules}
    (tmp_path / "recipe.yml").write_text(modules_of(model, **whole))
    with pytest.raises(SettingsError, match=says):
        merge_yaml(tmp_path / "recipe.yml", tmp_path / "out")


def test_ranges_of_a_model_with_two_stacks_ask_for_modules(tmp_path: Path) -> None:
    model = save("t5", tmp_path / "model")
    recipe = recipe_of(model, [(0, 2)], tmp_path / "recipe.yml")
    with pytest.raises(SettingsError, match=r"name the module under 'modules' \(.*encoder"):
        merge_yaml(recipe, tmp_path / "out")


def test_the_zoo_has_every_kind() -> None:
    assert set(KINDS) <= set(ZOO)


@pytest.mark.parametrize("model_type", ["t5", "bart"])
def test_the_part_that_two_towers_share_is_asked_for_as_it_is_given(model_type, tmp_path) -> None:
    model = save(model_type, tmp_path / "model")
    models = f"{{models: [{{model: {model}}}]}}"
    lines = ["merge_method: passthrough", "modules:"]
    lines += [f"  {name}: {models}" for name in ("encoder", "decoder")]
    recipe = tmp_path / "recipe.yml"
    recipe.write_text("\n".join(lines))
    with pytest.raises(
        SettingsError, match=r"with the models as a whole \(shared: {models: "
    ) as told:
        merge_yaml(recipe, tmp_path / "out")
    assert "parts shared of" in str(told.value)
    recipe.write_text("\n".join([*lines, f"  shared: {models}"]))
    merge_yaml(recipe, tmp_path / "out")
    first, found = (loaded(model_type, folder).state_dict() for folder in (model, tmp_path / "out"))
    assert all(torch.equal(found[name], value) for name, value in first.items())
