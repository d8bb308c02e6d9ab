"""What is wrong is said, and no output is left."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from combine.merge.test_bad_input import damaged
from naive import files_of
from treadle.combine.merge import merge_extract_lora, merge_moe
from treadle.core.errors import CheckpointError, DataError, SettingsError, UnsupportedModelError


@pytest.mark.parametrize(
    ("other", "config", "says"),
    [
        ("llama", {"intermediate_size": 112}, r"down_proj.*\[64, 112\].*\[64, 96\]"),
        ("llama", {"vocab_size": 336}, "--tokenizer union|vocabular"),
        ("llama", {"rms_norm_eps": 1e-3}, "rms_norm_eps.*merge models that compute alike"),
        ("mistral", {}, "merge models of one architecture"),
    ],
)
def test_models_that_differ_are_refused(other, config, says, llama, tiny_model, tmp_path) -> None:
    with pytest.raises(CheckpointError, match=says):
        merge_moe([llama, tiny_model(other, **config)], tmp_path / "out")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"experts_per_token": 3}, "experts_per_token = 3, of 2 in all; give 1 to 2"),
        ({"experts_per_token": 0}, "experts_per_token = 0"),
        ({"router": "hiden"}, "Unknown router 'hiden'.*Did you mean 'hidden'"),
        ({"router": "hidden"}, "needs prompts, and '.*' has none; give them with --prompts"),
        ({"router": {"method": "smile", "rank": 0}}, "rank = 0"),
        ({"router": "trained"}, "looks at the models' losses.*--text"),
        ({"text": ["stdlib:calibration"], "router": "smile"}, "'smile' has no use for a text"),
        ({"workers": 0}, "workers = 0; give at least 1"),
        ({"dtype": "int8"}, "int8"),
    ],
)
def test_settings_out_of_range_are_refused(settings, says, family, tmp_path) -> None:
    with pytest.raises(SettingsError, match=says):
        merge_moe(family.experts[:2], tmp_path / "out", **settings)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("expert1: [a]\nexpert2: [b]\nexpert9: [c]", "'expert9', which is no expert.*expert1"),
        ("expert1: [a]", "no prompts for the expert '.*expert2'"),
        ("expert1: [a]\nexpert2: []", "expert2'.*expected a list"),
        ("expert1: [a]\nexpert2: ['']", "expected a text"),
        ("expert1: {positve: [a]}", "unknown key 'positve'. Did you mean 'positive'"),
        ("expert1: [a]\nexpert2: [a]", "same prompts, which tell none from another"),
        ("[a, b]", "expected a mapping"),
        ("", "0 YAML documents"),
    ],
)
def test_prompts_that_say_nothing_are_refused(text, says, family, tmp_path) -> None:
    file = tmp_path / "prompts.yaml"
    file.write_text(text)
    with pytest.raises(SettingsError, match=says):
        merge_moe(family.experts[:2], tmp_path / "out", prompts=file)
    assert list(tmp_path.iterdir()) == [file]


def test_prompts_without_use_or_without_file_are_refused(family, prompts, tmp_path) -> None:
    prompts.write_text("expert1: [a]\nexpert2: [b]")
    with pytest.raises(SettingsError, match="'smile' has no use for prompts"):
        merge_moe(family.experts[:2], tmp_path / "out", prompts=prompts, router="smile")
    with pytest.raises(DataError, match=r"No prompts at '.*none\.yaml'"):
        merge_moe(family.experts[:2], tmp_path / "out", prompts=tmp_path / "none.yaml")


def test_a_prompt_beyond_the_context_is_refused(family, prompts, tmp_path) -> None:
    prompts.write_text(f"expert1: ['{'word ' * 3000}']\nexpert2: [b]")
    with pytest.raises(DataError, match=r"context holds \d+; shorten it"):
        merge_moe(family.experts[:2], tmp_path / "out", prompts=prompts)


def test_no_negative_prompts_may_be_an_empty_list(family, prompts, tmp_path) -> None:
    prompts.write_text("expert1: {positive: [a], negative: []}\nexpert2: [b]")
    merge_moe(family.experts[:2], tmp_path / "empty", prompts=prompts)
    prompts.write_text("expert1: [a]\nexpert2: [b]")
    merge_moe(family.experts[:2], tmp_path / "none", prompts=prompts)
    assert (
        files_of(tmp_path / "empty")["model.safetensors"]
        == files_of(tmp_path / "none")["model.safetensors"]
    )


def test_prompts_under_two_names_are_refused(family, prompts, tmp_path) -> None:
    prompts.write_text(f"expert1: [a]\n{family.experts[0]}: [b]\nexpert2: [c]")
    with pytest.raises(SettingsError, match="under two names; keep one"):
        merge_moe(family.experts[:2], tmp_path / "out", prompts=prompts)


def test_several_experts_of_one_name_are_told_apart_by_path(family, prompts, tmp_path) -> None:
    first = Path(shutil.copytree(family.experts[0], tmp_path / "a" / "model"))
    second = Path(shutil.copytree(family.experts[1], tmp_path / "b" / "model"))
    prompts.write_text("model: [a]")
    with pytest.raises(SettingsError, match="several experts are called 'model'"):
        merge_moe([first, second], tmp_path / "out", prompts=prompts)
    prompts.write_text(f"{first}: [a]\n{second}: {{positive: [b], negative: [c, d]}}")
    merge_moe([first, second], tmp_path / "out", prompts=prompts)


@pytest.mark.parametrize("name", ["model.layers.1.mlp.up_proj.weight", "model.norm.weight"])
def test_a_number_that_is_none_is_named(name, family, prompts, tmp_path) -> None:
    bad = damaged(family.experts[0], tmp_path / "e1", name, 7, np.nan)
    prompts.write_text("e1: [a]\nexpert2: [b]")
    for given in ({"router": "random"}, {"prompts": prompts}, {}):
        with pytest.raises(CheckpointError, match=f"'{name}'.*nan.* at element 7|'{name}'"):
            merge_moe([bad, family.experts[1]], tmp_path / "out", **given)
    assert not (tmp_path / "out").exists()


def test_the_output_may_not_lie_in_an_input(family, tmp_path) -> None:
    model = Path(shutil.copytree(family.base, tmp_path / "m"))
    before = files_of(model)
    for out in (model, model / "inside"):
        with pytest.raises(SettingsError, match="own folder, or lies in it"):
            merge_moe([model, family.experts[0]], out, router="random", overwrite=True)
    assert files_of(model) == before


def test_what_cannot_be_read_is_refused(family, tmp_path) -> None:
    with pytest.raises(CheckpointError, match="No model folder at"):
        merge_moe([family.base, tmp_path / "none"], tmp_path / "out")
    with pytest.raises(DataError, match=r"none\.yml"):
        merge_moe([tmp_path / "none.yml"], tmp_path / "out")
    with pytest.raises(SettingsError, match="list of models is empty"):
        merge_moe([], tmp_path / "out")


def test_an_adapter_is_applied_and_cannot_be_run(family, tmp_path) -> None:
    base, tuned = family.base, family.experts[0]
    merge_extract_lora(base, tuned, tmp_path / "lora", rank=64)
    merge_moe([f"{base}+{tmp_path / 'lora'}", base], tmp_path / "out", base=base)
    with pytest.raises(UnsupportedModelError, match="with an adapter, which cannot be run"):
        merge_moe([f"{base}+{tmp_path / 'lora'}", base], tmp_path / "other")
