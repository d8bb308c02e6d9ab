"""mergekit-moe's file: read as it is, or refused by the name of what is not supported."""

from pathlib import Path

import numpy as np
import pytest
import yaml

from combine.merge.mixture.conftest import WORDS
from combine.merge.models import arrays_of, bytes_of
from treadle.combine.merge import merge_moe
from treadle.combine.merge.mixture.prompts import read_prompts
from treadle.combine.merge.recipe.grammar import load
from treadle.core.errors import SettingsError

RECIPES = Path(__file__).parents[4] / "recipes"


def document(family, file: Path, **other) -> Path:
    """Write a file of mergekit-moe; a value of None leaves the key out."""
    experts = [
        {"source_model": str(one), "positive_prompts": [words]}
        for one, words in zip(family.experts, WORDS, strict=True)
    ]
    found = {"base_model": str(family.base), "gate_mode": "random", "experts": experts, **other}
    file.write_text(yaml.safe_dump({k: v for k, v in found.items() if v is not None}))
    return file


@pytest.mark.parametrize(
    ("mode", "router"),
    [
        ("hidden", {"method": "hidden", "state": "residual", "position": "last"}),
        ("hidden_avg", {"method": "hidden", "state": "residual", "position": "mean"}),
        ("cheap_embed", {"method": "cheap_embed"}),
    ],
)
def test_a_file_is_what_its_words_say(mode, router, family, prompts, tmp_path) -> None:
    file = document(family, tmp_path / "moe.yml", gate_mode=mode, architecture="mixtral")
    merge_moe([file], tmp_path / "file")
    prompts.write_text(yaml.safe_dump({f"expert{n}": [text] for n, text in enumerate(WORDS, 1)}))
    merge_moe(
        family.experts,
        tmp_path / "call",
        base=family.base,
        router={**router, "negatives": "none"},
        prompts=prompts,
    )
    assert bytes_of(tmp_path / "file") == bytes_of(tmp_path / "call")


def test_a_router_stands_in_for_the_files(family, tmp_path) -> None:
    file = document(family, tmp_path / "moe.yml")
    result = merge_moe([file], tmp_path / "out", router="smile")
    assert result.method == "smile"
    assert any("prompts" in note and "no effect" in note for note in result.notes)
    with pytest.raises(SettingsError, match="so base, dtype has no effect beside it"):
        merge_moe([file], tmp_path / "other", base=family.base, dtype="float16")


def test_noise_and_scales_are_of_one_expert(family, tmp_path) -> None:
    experts = [
        {"source_model": str(family.experts[0]), "noise_scale": 0.1},
        {"source_model": str(family.experts[0]), "residual_scale": 0.5},
        {"source_model": str(family.experts[0]), "noise_scale": 0.1},
    ]
    file = document(family, tmp_path / "moe.yml", experts=experts)
    merge_moe([file], tmp_path / "one", workers=1)
    merge_moe([file], tmp_path / "two", workers=2)
    assert bytes_of(tmp_path / "one") == bytes_of(tmp_path / "two")
    found, plain = arrays_of(tmp_path / "one"), arrays_of(family.experts[0])
    down = plain["model.layers.0.mlp.down_proj.weight"]
    noisy, scaled, other = (
        found[f"model.layers.0.block_sparse_moe.experts.{n}.w2.weight"] for n in range(3)
    )
    np.testing.assert_allclose(scaled, 0.5 * down, rtol=1e-6)
    assert (noisy - down).std() == pytest.approx(0.1, rel=0.05)
    assert abs((noisy - down).mean()) < 0.005
    assert abs(np.corrcoef((noisy - down).ravel(), (other - down).ravel())[0, 1]) < 0.1


def test_files_beside_the_recipes_are_read() -> None:
    experts = read_prompts(RECIPES / "moe.prompts.json", ["runs/moe/lookup", "runs/moe/facts"])
    assert [len(one.positive) for one in experts] == [4, 4]
    assert load(RECIPES / "stack.yml").extras == {"x-repeat-scale": 0.0}


@pytest.mark.parametrize(
    ("other", "says"),
    [
        ({"gate_mod": "hidden"}, "unknown key 'gate_mod'. Did you mean 'gate_mode'"),
        ({"gate_mode": "hiden"}, "unknown gate_mode 'hiden'. Did you mean 'hidden'"),
        ({"shared_experts": [{"source_model": "a"}]}, "shared_experts.*remove the key"),
        ({"architecture": "deepseek"}, "'deepseek' is not made here; remove the key"),
        ({"architecture": "qwen"}, "MixtralForCausalLM, but the file's architecture is qwen2_moe"),
        ({"dtype": "int4"}, "unknown dtype 'int4'"),
        ({"experts_per_token": 0}, "from 1 on"),
        ({"experts_per_token": 4}, "experts_per_token = 4, of 3 in all"),
        ({"base_model": None}, "'base_model' is missing"),
        ({"experts": []}, "expected a list"),
        ({"experts": [{"source_model": "a", "negativ_prompts": []}]}, "key 'negativ_prompts'"),
        ({"experts": [{"source_model": "a", "noise_scale": -1}]}, "noise_scale.*expected a number"),
    ],
)
def test_what_is_not_supported_is_refused_by_name(other, says, family, tmp_path) -> None:
    file = document(family, tmp_path / "moe.yml", **other)
    with pytest.raises(SettingsError, match=says):
        merge_moe([file], tmp_path / "out")
    assert list(tmp_path.iterdir()) == [file]
