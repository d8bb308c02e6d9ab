"""A merged model has all that its config needs, and whatever else the inputs hold is said."""

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from combine.merge.models import run, variant, with_config
from combine.merge.zoo import loaded, save
from products import few
from treadle.combine.merge import merge, merge_yaml
from treadle.core.errors import CheckpointError

LOST = {
    "gemma3": "language_model.model.layers.2.mlp.up_proj.weight",
    "llava": "vision_tower.encoder.layers.1.layer_norm1.weight",
    "mixtral": "model.layers.1.block_sparse_moe.experts.3.w1.weight",
    "qwen2_moe": "model.layers.1.mlp.shared_expert.up_proj.weight",
    "t5": "encoder.block.1.layer.0.SelfAttention.q.weight",
    "whisper": "model.decoder.layers.1.fc1.bias",
    "qwen3_next": "model.layers.0.linear_attn.A_log",
    "gpt2": "transformer.h.1.mlp.c_fc.weight",
}
ZOO = [*LOST, "bart", "qwen3_vl", "deepseek_v3", "jamba", "mllama"]


def changed(model: Path, drop: str = "", **added: torch.Tensor) -> Path:
    """Take a tensor out of a folder, or put some in."""
    file = model / "model.safetensors"
    tensors = load_file(file)
    assert not drop or tensors.pop(drop) is not None
    save_file(
        {**tensors, **{n.replace("__", "."): v for n, v in added.items()}}, file, {"format": "pt"}
    )
    return model


@pytest.mark.parametrize("model_type", few(ZOO, "gemma3", "mixtral", "t5"))
def test_a_whole_merge_is_the_mean_of_all_towers(model_type: str, tmp_path: Path) -> None:
    models = [save(model_type, tmp_path / f"m{seed}", seed) for seed in (1, 2)]
    result = merge(models, tmp_path / "out", "linear")
    assert not [note for note in result.notes if "place in the model" in note]
    found, first, second = (
        loaded(model_type, folder).state_dict() for folder in (tmp_path / "out", *models)
    )
    for name, value in found.items():
        torch.testing.assert_close(value, 0.5 * first[name] + 0.5 * second[name])


@pytest.mark.parametrize("model_type", few(LOST, "gemma3", "mixtral", "whisper"))
def test_what_all_inputs_lack_is_refused(model_type: str, tmp_path: Path) -> None:
    lost = LOST[model_type]
    models = [changed(save(model_type, tmp_path / f"m{seed}", seed), lost) for seed in (1, 2)]
    layer = re.search(r"\.\d+\.", lost)
    assert layer is not None
    says = rf"m1' lacks '.*{re.escape(layer[0])}.*', which its config.json needs; download it"
    with pytest.raises(CheckpointError, match=says):
        merge(models, tmp_path / "out", "linear")
    assert not (tmp_path / "out").exists()


def test_a_tensor_of_another_shape_than_the_configs_is_refused(family, tmp_path) -> None:
    models = [variant(family.base, tmp_path / f"m{n}", n) for n in (1, 2)]
    for model in models:
        with_config(model, intermediate_size=80)
    says = r"would have shape \[64, 96\], but .* makes it \[64, 80\]"
    with pytest.raises(CheckpointError, match=says):
        run(models, tmp_path / "out", "linear")


def test_a_tensor_that_nothing_reads_is_merged_and_named(family, tmp_path) -> None:
    models = [
        changed(variant(family.base, tmp_path / f"m{n}", n), v_head__weight=torch.full((2,), n))
        for n in (1.0, 3.0)
    ]
    result = run(models, tmp_path / "out", "linear")
    assert any("'v_head.weight' has no place in the model" in note for note in result.notes)
    assert load_file(tmp_path / "out" / "model.safetensors")["v_head.weight"].tolist() == [2, 2]


def test_layers_behind_the_last_one_that_no_config_knows_are_refused(family, tmp_path) -> None:
    models = [variant(family.base, tmp_path / f"m{n}", n) for n in (1, 2)]
    for model in models:
        with_config(model, num_hidden_layers=1)
    with pytest.raises(
        CheckpointError, match=r"makes 1 layers, but 2 are stored \('model.layers.1"
    ):
        run(models, tmp_path / "out", "linear")


@pytest.fixture
def predicting(tmp_path: Path) -> list[Path]:
    """Return models with a layer behind the last one that predicts a further token."""
    models = []
    for seed in (1, 2):
        model = save("deepseek_v3", tmp_path / f"m{seed}", seed)
        layer = {
            name.replace("layers.3.", "layers.4."): value
            for name, value in load_file(model / "model.safetensors").items()
            if ".layers.3." in name
        }
        extra = {"model.layers.4.eh_proj.weight": torch.full((2, 2), float(seed))}
        models.append(
            changed(model, **{n.replace(".", "__"): v for n, v in {**layer, **extra}.items()})
        )
        with_config(model, num_nextn_predict_layers=1)
    return models


def test_a_layer_that_predicts_further_tokens_is_merged(predicting, tmp_path) -> None:
    merge(predicting, tmp_path / "out", "linear")
    found, first, second = (
        load_file(folder / "model.safetensors") for folder in (tmp_path / "out", *predicting)
    )
    assert found.keys() == first.keys()
    for name in found:
        torch.testing.assert_close(found[name], 0.5 * first[name] + 0.5 * second[name])


def test_a_layer_that_predicts_further_tokens_stays_behind_the_last_one(
    predicting, tmp_path
) -> None:
    (tmp_path / "recipe.yml").write_text(
        f"merge_method: passthrough\nslices:\n"
        f"- sources: [{{model: {predicting[0]}, layer_range: [0, 2]}}]\n"
        f"- sources: [{{model: {predicting[1]}, layer_range: [3, 4]}}]\n"
    )
    result = merge_yaml(tmp_path / "recipe.yml", tmp_path / "out")
    found = load_file(tmp_path / "out" / "model.safetensors")
    assert found["model.layers.3.eh_proj.weight"].tolist() == [[2, 2], [2, 2]]
    assert not [name for name in found if ".layers.4." in name]
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (config["num_hidden_layers"], config["num_nextn_predict_layers"]) == (3, 1)
    assert any("1 layers behind the last one" in note for note in result.notes)
    says = r"Of '.*m2' no slice reads 'model.embed_tokens.weight': the output"
    assert any(re.match(says, note) for note in result.notes)


def test_a_base_of_another_depth_is_refused(family, tiny_model, tmp_path) -> None:
    deeper = tiny_model("llama", num_hidden_layers=3)
    with pytest.raises(CheckpointError, match=r"has 2 layers .* has 3; merge models of one depth"):
        run(family.experts, tmp_path / "out", "task_arithmetic", base=deeper)


def test_an_unknown_architecture_is_compared_layer_by_layer(family, tmp_path) -> None:
    models = [variant(family.base, tmp_path / f"m{n}", n) for n in (1, 2)]
    lost = "model.layers.1.mlp.up_proj.weight"
    for model in models:
        with_config(model, model_type="unheard", architectures=["UnheardForCausalLM"])
    notes = run(models, tmp_path / "out", "linear").notes
    assert any("not checked against its config" in note for note in notes)
    assert not any("Layer 1 has no" in note for note in notes)
    for model in models:
        changed(model, lost)
    notes = run(models, tmp_path / "less", "linear").notes
    assert any(f"Layer 1 has no '{lost}', though layer 0 has one" in note for note in notes)
