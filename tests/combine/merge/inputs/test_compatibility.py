"""Models that do not fit together are refused, in any order; what loaders recompute is left out."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from combine.merge.models import arrays_of, bytes_of, run, variant, with_config
from treadle.combine.merge import merge_yaml
from treadle.core.errors import CheckpointError, SettingsError

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
