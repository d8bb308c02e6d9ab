"""Every method through the driver: what holds for all, on one model; one method on all models."""

from pathlib import Path

import numpy as np
import pytest

from combine.merge.models import arrays_of, bytes_of, needs_base, num_models, run, variant
from naive import files_of, plain_losses, plain_model, tokens_of
from products import each_kind, few
from treadle.combine.merge import METHODS, merge_yaml
from treadle.core.checkpoint import CheckpointReader, content_hash, copy_checkpoint, read_manifest
from treadle.core.method import Control, Paper, Standard
from treadle.core.result import read_result
from treadle.model import facts

EVERY = list(METHODS.table)
WEIGHTED = [name for name in EVERY if "weight" in METHODS[name].fields()]
SCALED = [name for name in EVERY if "lambda" in METHODS[name].fields()]
# Where a base is the first of two models, their order means something.
SYMMETRIC = [name for name in EVERY if METHODS[name].base != "first"]


def given(family, method: str) -> tuple[list[Path], dict]:
    base = {"base": family.base} if needs_base(method) else {}
    return family.experts[: num_models(method)], base


def test_the_table_names_its_methods() -> None:
    for name in EVERY:
        cls = METHODS[name]
        assert cls.name == name
        assert isinstance(cls.paper, Paper | Standard | Control)
        for field in cls.model_fields.values():
            assert field.description


@pytest.mark.parametrize("method", EVERY)
def test_every_method_makes_a_model_that_loads_anywhere(family, method, tmp_path) -> None:
    models, base = given(family, method)
    before = [files_of(model) for model in models]
    result = run(models, tmp_path / "out", method, **base)
    assert [files_of(model) for model in models] == before
    losses = plain_losses(plain_model(tmp_path / "out"), tokens_of(2, 24, seed=9))
    assert bool(losses.isfinite().all())
    assert read_result(tmp_path / "out") == result
    manifest = read_manifest(tmp_path / "out")
    assert manifest.content_hash == content_hash(tmp_path / "out")
    hashes = {parent.content_hash for parent in manifest.provenance.parents}
    assert {content_hash(model) for model in [*models, *base.values()]} == hashes
    with CheckpointReader(tmp_path / "out") as reader:
        assert "lm_head.weight" not in reader.tensors  # tied weights are written once
        assert (tmp_path / "out" / "tokenizer.json").is_file()


@pytest.mark.parametrize("method", EVERY)
def test_identical_models_merge_into_themselves(llama, method, tmp_path) -> None:
    models = [variant(llama, tmp_path / f"m{n}", 0) for n in range(num_models(method))]
    base = {"base": llama} if needs_base(method) else {}
    run(models, tmp_path / "out", method, **base)
    found = arrays_of(tmp_path / "out")
    for name, expected in arrays_of(llama).items():
        np.testing.assert_allclose(found[name], expected, rtol=2e-5, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("method", sorted(set(WEIGHTED) - {"consensus"}))
def test_one_hot_weights_give_that_model(family, method, tmp_path) -> None:
    models, base = given(family, method)
    weight = [0.0] * len(models)
    weight[1] = 1.0
    run(models, tmp_path / "out", method, weight=weight, **base)
    found, expected = arrays_of(tmp_path / "out"), arrays_of(models[1])
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-4, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("method", ["ties", "dare_ties", "task_arithmetic"])
def test_density_one_and_one_model_is_that_model(family, method, tmp_path) -> None:
    run(family.experts[:1], tmp_path / "out", method, base=family.base)
    found, expected = arrays_of(tmp_path / "out"), arrays_of(family.experts[0])
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("method", SCALED)
def test_lambda_zero_gives_the_base(family, method, tmp_path) -> None:
    models, base = given(family, method)
    run(models, tmp_path / "out", method, **base, **{"lambda": 0.0})
    found = arrays_of(tmp_path / "out")
    for name, expected in arrays_of(family.base).items():
        assert np.array_equal(found[name], expected), name


@pytest.mark.parametrize("method", SYMMETRIC)
def test_the_order_of_the_models_does_not_matter(family, method, tmp_path) -> None:
    models, base = given(family, method)
    settings = dict(base)
    if "weight" in METHODS[method].fields():
        settings["weight"] = [0.2, 0.5, 0.9][: len(models)]
    run(models, tmp_path / "a", method, **settings)
    if "weight" in settings:
        settings["weight"] = settings["weight"][::-1]
    run(models[::-1], tmp_path / "b", method, **settings)
    left, right = arrays_of(tmp_path / "a"), arrays_of(tmp_path / "b")
    for name in left:
        np.testing.assert_allclose(left[name], right[name], rtol=1e-4, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("method", few(EVERY, "linear", "dare_ties", "slerp"))
def test_workers_and_shards_do_not_change_a_byte(family, method, tmp_path) -> None:
    models, base = given(family, method)
    run(models, tmp_path / "one", method, workers=1, **base)
    run(models, tmp_path / "four", method, workers=4, verify=True, **base)
    sharded = [tmp_path / f"sharded{n}" for n in range(len(models))]
    for model, out in zip(models, sharded, strict=True):
        copy_checkpoint(model, out, max_shard_bytes=40_000)
    run(sharded, tmp_path / "sharded", method, workers=2, **base)
    expected = bytes_of(tmp_path / "one")
    assert bytes_of(tmp_path / "four") == expected
    assert bytes_of(tmp_path / "sharded") == expected


@pytest.mark.parametrize("method", few(EVERY, "linear", "ties", "slerp"))
def test_half_precision_is_the_float32_result_rounded_once(half_family, method, tmp_path) -> None:
    models, base = given(half_family, method)
    run(models, tmp_path / "half", method, **base)
    run(models, tmp_path / "full", method, dtype="float32", **base)
    with CheckpointReader(tmp_path / "half") as half, CheckpointReader(tmp_path / "full") as full:
        assert {info.dtype for info in half.tensors.values()} == {"BF16"}
        assert half.config["dtype"] == "bfloat16"
        for name in full.tensors:
            rounded = full.array(name).astype(half.array(name).dtype)
            assert np.array_equal(half.array(name).view(np.uint16), rounded.view(np.uint16)), name


@pytest.mark.parametrize("architecture", each_kind(sorted(facts.ARCHITECTURES)))
def test_every_architecture_merges(architecture, tiny_model, tmp_path) -> None:
    base = tiny_model(architecture)
    models = [variant(base, tmp_path / f"m{n}", n) for n in (1, 2)]
    run(models, tmp_path / "out", "task_arithmetic", base=base, weight=[0.5, 0.5])
    found, start = arrays_of(tmp_path / "out"), arrays_of(base)
    left, right = map(arrays_of, models)
    for name, value in start.items():
        expected = value + 0.5 * (left[name] - value) + 0.5 * (right[name] - value)
        np.testing.assert_allclose(found[name], expected, rtol=1e-5, atol=1e-6, err_msg=name)
    losses = plain_losses(plain_model(tmp_path / "out"), tokens_of(1, 16, seed=3))
    assert bool(losses.isfinite().all())


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gpt_neox", "gemma3_text"])
def test_layers_are_stacked_as_the_recipe_says(architecture, tiny_model, tmp_path) -> None:
    model = tiny_model(architecture)
    recipe = tmp_path / "stack.yml"
    recipe.write_text(
        f"merge_method: passthrough\nslices:\n"
        f"- sources: [{{model: {model}, layer_range: [0, 2]}}]\n"
        f"- sources: [{{model: {model}, layer_range: [1, 2]}}]\n"
    )
    merge_yaml(recipe, tmp_path / "out")
    module, before = plain_model(tmp_path / "out"), plain_model(model)
    tokens = tokens_of(1, 16, seed=3)
    assert module.config.num_hidden_layers == 3
    assert not np.allclose(plain_losses(module, tokens), plain_losses(before, tokens), rtol=1e-3)
    # Scaled by zero, the matrices that end a repeated layer's branches make it an identity.
    recipe.write_text(recipe.read_text() + "x-repeat-scale: 0.0\n")
    merge_yaml(recipe, tmp_path / "same")
    same = plain_losses(plain_model(tmp_path / "same"), tokens)
    np.testing.assert_allclose(same, plain_losses(before, tokens), rtol=1e-5, atol=1e-5)


def test_dropped_weights_follow_the_model_not_its_place(family, tmp_path) -> None:
    first, second = family.experts[:2]
    for out, models in (("ab", [first, second]), ("ba", [second, first])):
        run(models, tmp_path / out, "dare_linear", base=family.base, density=0.5)
    left, right = arrays_of(tmp_path / "ab"), arrays_of(tmp_path / "ba")
    for name, value in left.items():
        np.testing.assert_allclose(value, right[name], rtol=1e-5, atol=1e-6)
    run([first, second], tmp_path / "other", "dare_linear", base=family.base, density=0.5, seed=1)
    other = arrays_of(tmp_path / "other")
    assert any(not np.array_equal(value, other[name]) for name, value in left.items())
