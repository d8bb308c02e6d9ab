"""RegMean++ against RegMean's regression on what reaches a block behind the merged ones."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from combine.merge.models import arrays_of, bytes_of, run, variant
from combine.merge.test_regmean import Inputs, merge_known, regression
from naive import plain_model
from treadle.combine.merge import merge
from treadle.combine.merge.inputs import data
from treadle.combine.merge.methods.regmean_plus_plus import RegMeanPlusPlus
from treadle.core.errors import SettingsError
from treadle.model.load import load_tokenizer
from treadle.model.statistics import collect_grams, model_matrices
from treadle.model.text import sampled_windows

WINDOWS = {"num_windows": 6, "window_tokens": 48}


@pytest.fixture(scope="module")
def texts(tmp_path_factory) -> list[str]:
    """Two texts of different kinds."""
    folder = tmp_path_factory.mktemp("texts")
    prose, sums = folder / "prose.txt", folder / "sums.txt"
    prose.write_text("It was the best of looms, it was the worst of looms. " * 60)
    sums.write_text("".join(f"{n} * {n} = {n * n};\n" for n in range(600)))
    return [str(prose), str(sums)]


@pytest.fixture(scope="module")
def pair(llama, tmp_path_factory) -> list[Path]:
    folder = tmp_path_factory.mktemp("pair")
    return [variant(llama, folder / f"m{seed}", seed, scale=0.5) for seed in (1, 2)]


def tokens_of(models: list[Path], texts: list[str]) -> list[torch.Tensor]:
    pairs = zip(models, texts, strict=True)
    return [sampled_windows(t, load_tokenizer(m), 6, 48, seed=0).tokens for m, t in pairs]


def hybrid(merged: Path, model: Path, layer: int, out: Path) -> Path:
    """The merged model, but from a block on the blocks of another one."""
    shutil.copytree(merged, out)
    own, theirs = load_file(out / "model.safetensors"), load_file(model / "model.safetensors")
    for name in own:
        if any(f"layers.{number}." in name for number in range(layer, 9)):
            own[name] = theirs[name]
    save_file(own, out / "model.safetensors", metadata={"format": "pt"})
    return out


def root(gram: torch.Tensor) -> np.ndarray:
    """A matrix of inputs with the Gram matrix."""
    values, vectors = torch.linalg.eigh(gram)
    return (values.clamp_min(0).sqrt()[:, None] * vectors.T).numpy()


@pytest.mark.parametrize("shrinkage", [0.9, 0.5])
def test_reference_each_block_is_solved_on_what_reaches_it(pair, texts, shrinkage, tmp_path):
    run(pair, tmp_path / "out", "regmean_plus_plus", text=texts, shrinkage=shrinkage, **WINDOWS)
    found, *ends = map(arrays_of, (tmp_path / "out", *pair))
    tokens = tokens_of(pair, texts)
    for layer in (0, 1):
        folders = [hybrid(tmp_path / "out", m, layer, tmp_path / f"{m.name}{layer}") for m in pair]
        known = [collect_grams(*both) for both in zip(folders, tokens, strict=True)]
        for matrix in model_matrices(pair[0]):
            if matrix.layer != layer:
                continue
            grams = [own[f"{layer}/{matrix.input}"].double() for own in known]
            roots = [root(gram) for gram in grams]
            expected = regression([end[matrix.tensor] for end in ends], roots, shrinkage)
            scale = np.abs(expected).max()
            assert np.abs(found[matrix.tensor] - expected).max() < 5e-3 * scale, matrix.tensor
    embedding = "model.embed_tokens.weight"
    np.testing.assert_allclose(
        found[embedding], 0.5 * (ends[0][embedding] + ends[1][embedding]), atol=1e-6
    )


def test_the_equation_is_that_of_regmean():
    random = np.random.default_rng(0)
    models = random.standard_normal((2, 4, 3)).astype(np.float32)
    inputs = [random.standard_normal((9, 3)) for _ in models]
    found = merge_known(models, [Inputs(x) for x in inputs], RegMeanPlusPlus(shrinkage=0.7))
    np.testing.assert_allclose(found, regression(models, inputs, 0.7), rtol=1e-3, atol=1e-4)


def test_limits_the_first_matrices_of_equal_embeddings_are_those_of_regmean(
    pair, texts, tmp_path
) -> None:
    """Nothing was merged before them; what lies behind reads other inputs."""
    alike = [Path(shutil.copytree(model, tmp_path / model.name)) for model in pair]
    tensors = load_file(alike[1] / "model.safetensors")
    tensors["model.embed_tokens.weight"] = arrays_of(alike[0])["model.embed_tokens.weight"]
    save_file(tensors, alike[1] / "model.safetensors", metadata={"format": "pt"})
    for method in ("regmean", "regmean_plus_plus"):
        run(alike, tmp_path / method, method, text=texts, **WINDOWS)
    plain, found = arrays_of(tmp_path / "regmean"), arrays_of(tmp_path / "regmean_plus_plus")
    first, second = (f"model.layers.{n}.self_attn.q_proj.weight" for n in (0, 1))
    np.testing.assert_allclose(found[first], plain[first], rtol=1e-4, atol=1e-5)
    assert not np.allclose(found[second], plain[second], rtol=1e-2, atol=1e-3)


def test_limits_experts_in_one_tensor_are_averaged_with_a_note(tiny_model, texts, tmp_path):
    models = []
    for seed in (1, 2):
        module = plain_model(variant(tiny_model("mixtral"), tmp_path / f"m{seed}", seed))
        models.append(Path(shutil.copytree(tmp_path / f"m{seed}", tmp_path / f"fused{seed}")))
        module.save_pretrained(models[-1], save_original_format=False)
    result = run(models, tmp_path / "out", "regmean_plus_plus", text=texts, **WINDOWS)
    assert any("mlp.experts." in note and "averaged plainly" in note for note in result.notes)


def test_limits_tokens_are_to_be_numbered_alike(pair, texts, tmp_path):
    options = {"text": texts, "tokenizer": "union", **WINDOWS}
    with pytest.raises(SettingsError, match="leave --tokenizer out"):
        merge(pair, tmp_path / "out", "regmean_plus_plus", **options)


def test_statistics_of_an_interrupted_merge_are_found_again(pair, texts, tmp_path, monkeypatch):
    run(pair, tmp_path / "whole", "regmean_plus_plus", text=texts, **WINDOWS)
    monkeypatch.setattr(data.Data, "remove", lambda _: None)
    run(pair, tmp_path / "out", "regmean_plus_plus", text=texts, **WINDOWS)
    kept = tmp_path / ".out.statistics"
    assert len(list(kept.iterdir())) == 4
    shutil.rmtree(tmp_path / "out")

    def refuse(*_: object) -> None:
        raise AssertionError("the statistics are there")

    monkeypatch.setattr(data, "merged_grams", refuse)
    run(pair, tmp_path / "out", "regmean_plus_plus", text=texts, **WINDOWS)
    assert bytes_of(tmp_path / "out") == bytes_of(tmp_path / "whole")
    shutil.rmtree(tmp_path / "out")
    with pytest.raises(AssertionError, match="the statistics are there"):
        run(pair, tmp_path / "out", "regmean_plus_plus", text=texts, shrinkage=0.5, **WINDOWS)


def error(merged: Path, pair: list[Path], tokens: list[torch.Tensor]) -> float:
    """How far the second block's outputs are from each model's matrices, on what arrives there."""
    module, total = plain_model(merged), 0.0
    blocks = [plain_model(model).model.layers[1] for model in pair]
    for own, block in zip(tokens, blocks, strict=True):
        arrived: dict[str, torch.Tensor] = {}
        reader = module.model.layers[1].self_attn.q_proj
        hook = reader.register_forward_pre_hook(lambda _, args, a=arrived: a.update(x=args[0]))
        with torch.no_grad():
            module(input_ids=own)
            wanted = block.self_attn.q_proj(arrived["x"])
            total += float((reader(arrived["x"]) - wanted).square().sum() / wanted.square().sum())
        hook.remove()
    return total


def test_meaning_matrices_fit_what_arrives_in_the_merged_model(pair, texts, tmp_path) -> None:
    tokens, found = tokens_of(pair, texts), {}
    for method in ("regmean", "regmean_plus_plus", "linear"):
        known = {} if method == "linear" else {"text": texts, "shrinkage": 1.0, **WINDOWS}
        run(pair, tmp_path / method, method, **known)
        found[method] = error(tmp_path / method, pair, tokens)
    assert found["regmean_plus_plus"] < 0.5 * min(found["regmean"], found["linear"]), found
