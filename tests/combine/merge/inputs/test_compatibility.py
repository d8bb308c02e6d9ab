"""Models that do not fit together are refused, in any order; what loaders recompute is left out."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
)

from combine.merge.models import arrays_of, bytes_of, run, variant, with_config
from products import few
from treadle.app.export import export
from treadle.combine.merge import merge, merge_yaml
from treadle.core.checkpoint import CheckpointReader
from treadle.core.errors import CheckpointError, SettingsError
from treadle.model import tiny

DOWN = "model.layers.1.mlp.down_proj.weight"


def with_tensors(model: Path, out: Path, drop: str = "", **added: np.ndarray) -> Path:
    """Copy a model without one tensor, or with others."""
    shutil.copytree(model, out)
    file = out / "model.safetensors"
    tensors = {name: value for name, value in load_file(file).items() if name != drop}
    save_file({**tensors, **{n.replace("__", "."): v for n, v in added.items()}}, file)
    return out


@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("name", [DOWN, "model.norm.weight"])
def test_a_tensor_that_one_model_lacks_is_named(family, place, name, tmp_path):
    bad = with_tensors(family.experts[0], tmp_path / "bad", drop=name)
    models = list(family.experts[1:])
    models.insert(place, bad)
    says = rf"'.*bad' lacks '{name}', which its config.json needs; download it again"
    with pytest.raises(CheckpointError, match=says):
        run(models, tmp_path / "out", "linear")
    assert not (tmp_path / "out").exists()


def test_a_tensor_that_only_the_base_has_is_named(family, tmp_path):
    bias = "model__layers__0__self_attn__q_proj__bias"
    base = with_tensors(family.base, tmp_path / "biased", **{bias: np.ones(64, np.float32)})
    with pytest.raises(CheckpointError, match=r"has no tensor '.*q_proj.bias', which '.*biased'"):
        run(family.experts, tmp_path / "out", "task_arithmetic", base=base)


@pytest.mark.parametrize("other", ["qwen3", "qwen2", "mistral"])
def test_other_architectures_are_refused_in_any_order(tiny_model, other, tmp_path):
    first, second = tiny_model("llama"), tiny_model(other)
    for models in ([first, second], [second, first]):
        with pytest.raises(CheckpointError, match="merge models of one architecture") as caught:
            run(models, tmp_path / "out", "linear")
        assert "llama LlamaForCausalLM" in str(caught.value)
        assert f"a {other} " in str(caught.value)


@pytest.mark.parametrize("said", [True, "LlamaForCausalLM", [1], {}])
@pytest.mark.parametrize("place", [0, 1])
def test_architectures_that_are_no_list_of_names(family, said, place, tmp_path):
    bad = variant(family.base, tmp_path / "bad", 1)
    with_config(bad, architectures=said)
    models = [family.experts[0]]
    models.insert(place, bad)
    with pytest.raises(CheckpointError, match=r"bad.* says architectures: .*; correct it"):
        run(models, tmp_path / "out", "linear")


def in_form(kind: str, folder: Path, seed: int, is_published: bool) -> Path:
    """Write one model as hubs have it, or as transformers' module names its tensors."""
    if kind in tiny.WRAPPERS:
        return tiny.build_wrapper(kind, folder, seed, is_original=is_published)
    if kind != "gpt2":
        return tiny.build(kind, folder, seed, is_stacked=not is_published)
    tiny.build(kind, folder, seed)
    if is_published:
        file = folder / "model.safetensors"
        tensors = {n.removeprefix("transformer."): t for n, t in load_file(file).items()}
        save_file(tensors, file, {"format": "pt"})
    return folder


@pytest.mark.parametrize("kind", few(["gpt2", "qwen3_moe", "mixtral", "gemma3"], "gpt2", "mixtral"))
@pytest.mark.parametrize("is_sliced", [False, True])
def test_two_forms_of_one_model_are_merged(kind, is_sliced, tmp_path):
    pair = [in_form(kind, tmp_path / f"m{seed}", seed, seed == 0) for seed in (0, 1)]
    layers = ", layer_range: [0, 2]" if is_sliced else ""
    key = "slices: [{sources: [" if is_sliced else "models: ["
    end = "]}]" if is_sliced else "]"
    whole = AutoModelForImageTextToText if kind in tiny.WRAPPERS else AutoModelForCausalLM
    ours, theirs = (whole.from_pretrained(model).state_dict() for model in pair)
    for place, models in enumerate((pair, pair[::-1])):
        weighed = ((models[0], 3.0), (models[1], 1.0))
        listed = ", ".join(
            f"{{model: {model}{layers}, parameters: {{weight: {weight}}}}}"
            for model, weight in weighed
        )
        recipe, out = tmp_path / "recipe.yml", tmp_path / f"out{place}"
        recipe.write_text(f"merge_method: linear\n{key}{listed}{end}\n")
        merge_yaml(recipe, out)
        with CheckpointReader(out) as made, CheckpointReader(models[0]) as first:
            assert set(made.tensors) == set(first.tensors), "the first model's form"
        found = whole.from_pretrained(out).state_dict()
        shares = (0.75, 0.25) if place == 0 else (0.25, 0.75)
        assert ours.keys() == found.keys()
        for name, value in found.items():
            expected = shares[0] * ours[name] + shares[1] * theirs[name]
            torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-6)


def test_layers_that_only_one_of_two_forms_has(tmp_path):
    short = in_form("gpt2", tmp_path / "short", 0, is_published=True)
    deep = tiny.build("gpt2", tmp_path / "deep", 1, num_hidden_layers=3)
    recipe = tmp_path / "recipe.yml"
    slices = [
        f"{{sources: [{{model: {m}, layer_range: [{n}]}}]}}"
        for m, n in ((short, "0, 2"), (deep, "1, 3"))
    ]
    recipe.write_text(f"merge_method: passthrough\nslices: [{', '.join(slices)}]\n")
    merge_yaml(recipe, tmp_path / "out")
    found = AutoModelForCausalLM.from_pretrained(tmp_path / "out").state_dict()
    last = AutoModelForCausalLM.from_pretrained(deep).state_dict()
    name = "transformer.h.{}.mlp.c_fc.weight"
    torch.testing.assert_close(found[name.format(3)], last[name.format(2)])


def test_a_text_model_and_a_wrapper_around_one_tell_the_mend(tmp_path):
    text = tiny.build("gemma3_text", tmp_path / "text")
    wrapper = tiny.build_wrapper("gemma3", tmp_path / "wrapper")
    with pytest.raises(CheckpointError, match=rf"treadle export {wrapper} OUT --text-only"):
        merge([text, wrapper], tmp_path / "out", "linear")
    export(wrapper, tmp_path / "tower", text_only=True)
    merge([text, tmp_path / "tower"], tmp_path / "out", "linear")


def test_models_without_a_vocabulary(tmp_path):
    sizes = {"hidden_size": 32, "num_attention_heads": 2, "num_hidden_layers": 1}
    config = AutoConfig.for_model("vit", image_size=28, patch_size=14, **sizes)
    pair = [tmp_path / "a", tmp_path / "b"]
    for folder in pair:
        AutoModel.from_config(config).save_pretrained(folder)
    merge(pair, tmp_path / "out", "linear")
    first, second, found = (AutoModel.from_pretrained(m) for m in (*pair, tmp_path / "out"))
    for name, value in found.state_dict().items():
        expected = (first.state_dict()[name] + second.state_dict()[name]) / 2
        torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-6)
    with pytest.raises(CheckpointError, match="its tokens cannot be brought in line"):
        merge(pair, tmp_path / "no", "linear", tokenizer="union")


@pytest.mark.parametrize("around", ["module.", "_orig_mod.", "base_model.model."])
def test_names_of_a_module_inside_of_another_one(around, tmp_path):
    folder = tiny.build("llama", tmp_path / "m")
    file = folder / "model.safetensors"
    save_file({f"{around}{n}": t for n, t in load_file(file).items()}, file, {"format": "pt"})
    with pytest.raises(CheckpointError, match=rf"are called '{around}\.\.\.'.*save the model its"):
        merge([folder, folder], tmp_path / "out", "linear")


@pytest.mark.parametrize("kind", ["gemma3", "llava"])
def test_a_wrapper_that_counts_fewer_layers_than_it_has(kind, tmp_path):
    folder = tiny.build_wrapper(kind, tmp_path / "m")
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["num_hidden_layers"] = 1
    for key in ("layer_types",):
        if key in config["text_config"]:
            config["text_config"][key] = config["text_config"][key][:1]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="makes 1 layers, but 2 are stored"):
        merge([folder, folder], tmp_path / "out", "linear")


def test_the_brave_may_merge_other_architectures(family, tmp_path):
    other = Path(shutil.copytree(family.experts[0], tmp_path / "other"))
    with_config(other, model_type="mistral", architectures=["MistralForCausalLM"])
    recipe = tmp_path / "recipe.yml"
    text = f"merge_method: linear\nmodels: [{{model: {family.base}}}, {{model: {other}}}]\n"
    recipe.write_text(text)
    with pytest.raises(CheckpointError, match="x-allow-architectures: true"):
        merge_yaml(recipe, tmp_path / "out")
    recipe.write_text(f"{text}x-allow-architectures: 1\n")
    with pytest.raises(SettingsError, match="x-allow-architectures = 1; write true or false"):
        merge_yaml(recipe, tmp_path / "out")
    recipe.write_text(f"{text}x-allow-architectures: true\n")
    merge_yaml(recipe, tmp_path / "out")
    run([family.base, family.experts[0]], tmp_path / "same", "linear")
    assert bytes_of(tmp_path / "out") == bytes_of(tmp_path / "same")


def test_buffers_that_loaders_compute_again_are_left_out(family, tmp_path):
    buffers = {"model__layers__0__self_attn__rotary_emb__inv_freq": np.ones(8, np.float32)}
    old = with_tensors(family.experts[0], tmp_path / "old", **buffers)
    run([old, family.experts[1]], tmp_path / "a", "linear")
    run([family.experts[1], old], tmp_path / "b", "linear")
    assert arrays_of(tmp_path / "a").keys() == arrays_of(family.base).keys()
    assert arrays_of(tmp_path / "b").keys() == arrays_of(family.base).keys()


def test_a_head_of_its_own_in_the_base_makes_one_in_the_output(family, tmp_path):
    head = arrays_of(family.base)["model.embed_tokens.weight"] * 2
    base = with_tensors(family.base, tmp_path / "untied", lm_head__weight=head)
    with_config(base, tie_word_embeddings=False)
    tuned = [variant(family.base, tmp_path / "tuned", 4)]
    run(tuned, tmp_path / "out", "task_arithmetic", base=base)
    assert "lm_head.weight" in arrays_of(tmp_path / "out")
