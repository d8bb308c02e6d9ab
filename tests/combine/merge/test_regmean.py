"""RegMean against the regression that it solves."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from combine.merge.models import arrays_of, run, variant
from combine.merge.sites import MemorySite, merged
from naive import plain_model
from treadle.combine.merge import merge
from treadle.combine.merge.methods.regmean import RegMean
from treadle.core.errors import SettingsError


def merge_known(models, known, method=RegMean()):  # noqa: B008  # frozen
    site = MemorySite(list(models))
    site.knowledge = tuple(known)
    return merged(method, site)


class Inputs:
    """What is known of a matrix, from its inputs."""

    def __init__(self, values, is_transposed=False):
        self.values, self.is_transposed = values, is_transposed

    def importance(self, first, target):
        raise AssertionError("regmean has no use for it")

    def gram(self):
        return None if self.values is None else (self.values.T @ self.values).astype(np.float32)


def regression(models, inputs, shrinkage):
    """The least squares problem itself, with the shrunk Gram matrices as their square roots."""
    rows, targets = [], []
    for weight, values in zip(models, inputs, strict=True):
        gram = (values.T @ values).astype(np.float64)
        shrunk = shrinkage * gram + (1 - shrinkage) * np.diag(np.diag(gram))
        root = np.linalg.cholesky(shrunk + 1e-9 * np.eye(len(gram))).T
        rows.append(root)
        targets.append(root @ weight.T)
    return np.linalg.lstsq(np.vstack(rows), np.vstack(targets), rcond=None)[0].T


@given(st.integers(1, 3), st.integers(1, 6), st.integers(1, 6), st.integers(0, 99))
def test_regmean_solves_the_regression(num_models, out, width, seed):
    random = np.random.default_rng(seed)
    models = random.standard_normal((num_models, out, width)).astype(np.float32)
    inputs = [random.standard_normal((3 * width, width)) for _ in models]
    found = merge_known(models, [Inputs(values) for values in inputs])
    np.testing.assert_allclose(found, regression(models, inputs, 0.9), rtol=1e-3, atol=1e-4)
    lying = merge_known(
        np.ascontiguousarray(models.transpose(0, 2, 1)),
        [Inputs(values, is_transposed=True) for values in inputs],
    )
    np.testing.assert_allclose(lying.T, found, atol=1e-5)


def test_what_is_no_matrix_is_averaged():
    models = np.array([[1.0, 2.0], [3.0, 6.0]], np.float32)
    found = merge_known(models, [Inputs(None)] * 2)
    np.testing.assert_allclose(found, [2.0, 4.0])


def test_inputs_that_never_fire_leave_a_finite_result():
    models = np.ones((2, 3, 4), np.float32)
    values = np.zeros((5, 4))
    values[:, 0] = 1.0
    found = merge_known(models, [Inputs(values)] * 2)
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found, 1.0, rtol=1e-4)


def test_regmean_beats_the_mean_where_models_see_different_inputs():
    random = np.random.default_rng(0)
    models = random.standard_normal((2, 8, 6)).astype(np.float32)
    scales = ([3] * 3 + [0.1] * 3, [0.1] * 3 + [3] * 3)
    inputs = [random.standard_normal((50, 6)) * scale for scale in scales]
    found = merge_known(models, [Inputs(x) for x in inputs])

    def loss(weight):
        return sum(
            float(((x @ weight.T - x @ m.T) ** 2).mean())
            for x, m in zip(inputs, models, strict=True)
        )

    assert loss(found) < 0.1 * loss(models.mean(axis=0))


def test_without_a_text_it_says_what_is_missing(family, tmp_path):
    with pytest.raises(SettingsError, match="give a text for each with --text"):
        merge(family.experts, tmp_path / "out", "regmean")
    assert run(family.experts, tmp_path / "out", "regmean").method == "regmean"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_experts_in_one_tensor_are_averaged_with_a_note(tiny_model, tmp_path):
    """They read many inputs: no Gram matrix is that of the tensor."""
    models = []
    for seed in (1, 2):
        module = plain_model(variant(tiny_model("mixtral"), tmp_path / f"m{seed}", seed))
        models.append(Path(shutil.copytree(tmp_path / f"m{seed}", tmp_path / f"fused{seed}")))
        module.save_pretrained(models[-1], save_original_format=False)
    result = run(models, tmp_path / "out", "regmean")
    assert any("mlp.experts." in note and "averaged plainly" in note for note in result.notes)
    found, first, second = map(arrays_of, (tmp_path / "out", *models))
    experts = "model.layers.0.mlp.experts.gate_up_proj"
    np.testing.assert_allclose(found[experts], 0.5 * (first[experts] + second[experts]), rtol=1e-6)
    query = "model.layers.0.self_attn.q_proj.weight"
    assert not np.allclose(found[query], 0.5 * (first[query] + second[query]), rtol=1e-3)


@pytest.mark.parametrize(("window_tokens", "is_noted"), [(64, False), (160, True)])
def test_windows_beyond_the_positions_are_noted(family, window_tokens, is_noted, tmp_path):
    options = {"text": ["stdlib:calibration"], "num_windows": 1, "window_tokens": window_tokens}
    notes = merge(family.experts[:2], tmp_path / "out", "regmean", **options).notes
    said = [note for note in notes if "longer than the model's 128 positions" in note]
    assert len(said) == 2 * is_noted


def test_windows_start_as_it_is_asked(tiny_model, text: str, tmp_path: Path) -> None:
    """A start that the tokenizer does not have is refused, and one without a text has no effect."""
    models = [tiny_model("llama")] * 2
    with pytest.raises(SettingsError, match="has no BOS token"):
        merge(models, tmp_path / "out", "regmean", text=[text], bos="each")
    with pytest.raises(SettingsError, match="bos = 'each' has no effect without a text"):
        merge(models, tmp_path / "out", "linear", bos="each")
