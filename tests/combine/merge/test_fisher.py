"""Fisher merging against its equation."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from combine.merge.models import arrays_of, run, variant
from combine.merge.sites import MemorySite, merged
from treadle.combine.merge.methods.fisher import Fisher
from treadle.core.errors import SettingsError, UnsupportedModelError
from treadle.model.load import full, load_tokenizer
from treadle.model.statistics import collect_importance
from treadle.model.text import sampled_windows


def merge_known(method, models, known):
    site = MemorySite(list(models))
    site.knowledge = tuple(known)
    return merged(method, site)


class Importance:
    """What is known, from memory."""

    is_transposed = False

    def __init__(self, values):
        self.values = values

    def importance(self, first, target):
        target[:] = self.values.reshape(-1)[first : first + target.size]

    def gram(self):
        return None


@given(st.integers(1, 4), st.integers(1, 40), st.integers(0, 99))
def test_fisher_is_the_mean_weighted_by_importance(num_models, size, seed):
    random = np.random.default_rng(seed)
    models = random.standard_normal((num_models, size)).astype(np.float32)
    importance = random.random((num_models, size)).astype(np.float32)
    weights = random.random(num_models) + 0.1
    known = [Importance(row) for row in importance]
    found = merge_known(Fisher(weight=tuple(weights)), models, known)
    for place in range(size):
        shares = [w * (f[place] + 1e-10) for w, f in zip(weights, importance, strict=True)]
        expected = sum(s * m[place] for s, m in zip(shares, models, strict=True)) / sum(shares)
        assert found[place] == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_what_no_model_uses_is_averaged():
    models = np.array([[1.0, 4.0], [3.0, 8.0]], np.float32)
    zero = np.zeros(2, np.float32)
    found = merge_known(Fisher(), models, [Importance(zero)] * 2)
    np.testing.assert_allclose(found, [2.0, 6.0])


def test_each_model_keeps_what_its_task_depends_on():
    models = np.array([[1.0, 1.0], [2.0, 2.0]], np.float32)
    known = [Importance(np.array(row, np.float32)) for row in ([9.0, 1e-4], [1e-4, 9.0])]
    found = merge_known(Fisher(), models, known)
    np.testing.assert_allclose(found, [1.0, 2.0], atol=1e-3)


def test_importance_is_the_mean_squared_gradient(llama, text):
    tokens = sampled_windows(text, load_tokenizer(llama), 3, 16, seed=0).tokens
    found = collect_importance(llama, tokens)
    model = full(llama)
    expected = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    for row in tokens:
        for parameter in model.parameters():
            parameter.requires_grad_(True)
            parameter.grad = None
        model(input_ids=row[None], labels=row[None]).loss.backward()
        for name, parameter in model.named_parameters():
            expected[name] += parameter.grad**2 / len(tokens)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value)


def test_experts_are_known_by_their_names_on_disk(tiny_model, text):
    folder = tiny_model("mixtral")
    tokens = sampled_windows(text, load_tokenizer(folder), 2, 16, seed=0).tokens
    found = collect_importance(folder, tokens)
    assert {name: tuple(v.shape) for name, v in found.items()} == {
        name: value.shape for name, value in arrays_of(folder).items()
    }


def test_texts_are_one_for_all_or_one_each(family, text, tmp_path):
    with pytest.raises(SettingsError, match="2 texts were given for 3 models"):
        run(family.experts, tmp_path / "out", "fisher", text=[text, text])
    with pytest.raises(SettingsError, match="has no use for a text"):
        run(family.experts, tmp_path / "out", "linear", text=[text])
    assert not list(tmp_path.iterdir())


def test_a_tensor_that_no_loss_depends_on_is_refused(family, tmp_path):
    models = []
    for seed in (1, 2):
        model = variant(family.base, tmp_path / f"m{seed}", seed)
        tensors = load_file(model / "model.safetensors")
        tensors["v_head.weight"] = np.ones(2, np.float32)
        save_file(tensors, model / "model.safetensors")
        models.append(model)
    with pytest.raises(UnsupportedModelError, match=r"No gradient is known of .*'v_head.weight'"):
        run(models, tmp_path / "out", "fisher")
    assert not (tmp_path / "out").exists()
