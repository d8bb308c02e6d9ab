"""Zeros of pruned inputs: how many are lost is said, and those that all of them share can stay."""

from pathlib import Path

import numpy as np
import pytest

from combine.merge.models import arrays_of, run, variant
from combine.merge.sites import normal
from treadle.combine.merge import METHODS, merge_yaml
from treadle.core.checkpoint import CheckpointReader
from treadle.core.codec import count_zeros
from treadle.core.errors import SettingsError
from treadle.core.result import Result

MATRIX = "model.layers.0.mlp.up_proj.weight"


def pruned(model: Path, masks: dict[str, np.ndarray]) -> Path:
    """Set weights of a float32 folder to zero where a mask is true."""
    with CheckpointReader(model) as reader:
        infos = {name: reader.tensors[name] for name in masks}
        arrays = {name: reader.array(name).copy() for name in masks}
    for name, mask in masks.items():
        arrays[name][mask] = 0.0
        with infos[name].file.open("rb+") as file:
            file.seek(infos[name].start_byte)
            file.write(arrays[name].tobytes())
    return model


def mask(seed: int, share: float) -> np.ndarray:
    return np.random.default_rng(seed).random((96, 64)) < share


@pytest.fixture
def sparse(family, tmp_path: Path) -> list[Path]:
    """Return two models of which half the weights of one matrix are zero, in other places."""
    return [
        pruned(variant(family.base, tmp_path / f"m{seed}", seed), {MATRIX: mask(seed, 0.5)})
        for seed in (1, 2)
    ]


def sparsity(result: Result) -> float:
    return next(float(m.value) for m in result.measurements if m.name == "sparsity")


def test_zeros_that_are_lost_are_counted(sparse, tmp_path) -> None:
    result = run(sparse, tmp_path / "out", "linear")
    share = float((mask(1, 0.5) & mask(2, 0.5)).mean())
    assert sparsity(result) == pytest.approx(share)
    says = f"in 1 matrix about 50% of the sparsest input's weights are zero, and {share:.0%} of"
    assert any(says in note and "--keep-zeros" in note for note in result.notes)


def test_dense_models_say_nothing_of_zeros(family, tmp_path) -> None:
    result = run(family.experts, tmp_path / "out", "linear")
    assert not any("zeros" in note for note in result.notes)
    assert "sparsity" not in {m.name for m in result.measurements}


def test_a_dense_model_fills_the_zeros_unless_they_are_kept(family, sparse, tmp_path) -> None:
    models = [sparse[0], family.experts[2]]
    filled = run(models, tmp_path / "filled", "linear")
    assert sparsity(filled) == 0.0
    kept = run(models, tmp_path / "kept", "linear", keep_zeros=True, verify=True)
    assert sparsity(kept) == pytest.approx(float(mask(1, 0.5).mean()))
    before, after = arrays_of(tmp_path / "filled"), arrays_of(tmp_path / "kept")
    for name, value in before.items():
        expected = np.where(mask(1, 0.5), 0.0, value) if name == MATRIX else value
        assert np.array_equal(after[name], expected), name
    assert not any("lost zeros" in note for note in kept.notes)


@pytest.mark.parametrize("method", ["linear", "task_arithmetic", "ties", "slerp"])
def test_zeros_that_all_sparse_inputs_share_stay(family, sparse, method, tmp_path) -> None:
    base = {} if METHODS[method].base == "unused" else {"base": family.base}
    models = sparse[: 1 if method == "slerp" else 2]
    run(models, tmp_path / "out", method, keep_zeros=True, **base)
    run(models, tmp_path / "plain", method, **base)
    shared = mask(1, 0.5) if method == "slerp" else mask(1, 0.5) & mask(2, 0.5)
    expected = np.where(shared, 0.0, arrays_of(tmp_path / "plain")[MATRIX])
    assert np.array_equal(arrays_of(tmp_path / "out")[MATRIX], expected)


def test_a_recipe_keeps_zeros_too(family, sparse, tmp_path) -> None:
    (tmp_path / "recipe.yml").write_text(
        f"merge_method: linear\nmodels: [{{model: {sparse[0]}}}, {{model: {family.base}}}]\n"
        f"x-keep-zeros: true\n"
    )
    result = merge_yaml(tmp_path / "recipe.yml", tmp_path / "out")
    assert sparsity(result) == pytest.approx(float(mask(1, 0.5).mean()))


def test_nothing_to_keep_is_refused(family, tmp_path) -> None:
    with pytest.raises(SettingsError, match="keep_zeros has nothing to keep"):
        run(family.experts, tmp_path / "out", "linear", keep_zeros=True)


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16"])
def test_zeros_of_either_sign_are_counted(dtype: str) -> None:
    values = normal(3, 7, seed=0).astype(dtype)
    values[0, :3], values[2, 5] = 0.0, -0.0
    assert count_zeros(values) == 4
