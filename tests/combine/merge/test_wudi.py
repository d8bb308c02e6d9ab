import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from combine.merge.models import arrays_of, bytes_of, run, variant, with_config
from combine.merge.sites import COUNTS, SEEDS, MemorySite, merged, normal, tuned
from treadle.cli import main
from treadle.combine.merge.methods.task_arithmetic import TaskArithmetic
from treadle.combine.merge.methods.wudi import Wudi


def loss(change: np.ndarray, deltas: list[np.ndarray]) -> float:
    """The paper's, row by row."""
    total = 0.0
    for delta in deltas:
        size = sum(float(x) ** 2 for x in delta.reshape(-1))
        for row in (change - delta) @ delta.T:
            total += sum(float(x) ** 2 for x in row) / size
    return total


def by_adam(deltas: list[np.ndarray], rate: float) -> np.ndarray:
    """The paper's solution: 300 steps from the sum."""
    matrices = [torch.tensor(delta) for delta in deltas]
    change = torch.stack(matrices).sum(dim=0).requires_grad_(True)
    optimizer = torch.optim.Adam([change], lr=rate)
    for _ in range(300):
        optimizer.zero_grad()
        terms = [((change - d) @ d.T).square().sum() / d.square().sum() for d in matrices]
        torch.stack(terms).sum().backward()
        optimizer.step()
    return change.detach().numpy()


@given(st.integers(1, 7), st.integers(1, 7), COUNTS, SEEDS)
def test_reference_the_gradient_is_zero(rows, columns, count, seed) -> None:
    models, base = tuned((rows, columns), count, seed, distance=1.0)
    deltas = [(model - base).astype(np.float64) for model in models]
    change = merged(Wudi(), MemorySite(models, np.float32(base))).astype(np.float64) - base
    gradient = sum(2 * (change - d) @ d.T @ d / np.square(d).sum() for d in deltas)
    assert np.abs(gradient).max() < 1e-4 * max(1.0, max(np.abs(d).max() for d in deltas))
    half = merged(Wudi(lambda_=0.5), MemorySite(models, base))
    assert np.allclose(half - base, 0.5 * change, atol=1e-5)


@pytest.mark.parametrize("rate", [1e-3, 1e-2])
def test_reference_no_steps_of_adam_come_lower(rate: float) -> None:
    deltas = [normal(6, 9, seed=seed).astype(np.float64) for seed in range(3)]
    site = MemorySite([d.astype(np.float32) for d in deltas], np.zeros((6, 9), np.float32))
    found = loss(merged(Wudi(), site).astype(np.float64), deltas)
    assert found <= loss(by_adam(deltas, rate), deltas) + 1e-6
    assert found < 0.8 * loss(sum(deltas), deltas)


@given(st.sampled_from([(), (5,), (3, 2, 4)]), COUNTS, SEEDS)
def test_reference_other_tensors_are_averaged(shape, count, seed) -> None:
    models, base = tuned(shape, count, seed)
    found = merged(Wudi(), MemorySite(models, base))
    assert np.allclose(found, np.mean(models, axis=0), atol=1e-6)


def test_reference_experts_are_solved_one_by_one() -> None:
    models, base = tuned((3, 4, 5), 2, seed=0)
    site = MemorySite(models, base)
    site.name = "model.layers.0.mlp.experts.down_proj"
    found = merged(Wudi(), site)
    for place in range(3):
        alone = merged(Wudi(), MemorySite([m[place] for m in models], base[place]))
        assert np.allclose(found[place], alone, atol=1e-6)
    site.name = "model.layers.0.mlp.experts.down_proj_bias"
    assert np.allclose(merged(Wudi(), site), np.mean(models, axis=0), atol=1e-6)


def test_a_matrix_that_lies_as_in_out_is_turned() -> None:
    models, base = tuned((4, 6), 3, seed=1)
    site = MemorySite([np.ascontiguousarray(m.T) for m in models], np.ascontiguousarray(base.T))
    site.is_transposed = True
    found = merged(Wudi(), site)
    assert np.allclose(found.T, merged(Wudi(), MemorySite(models, base)), atol=1e-6)
    site.is_transposed = False
    assert not np.allclose(found, merged(Wudi(), site), atol=1e-3)


def test_the_embedding_is_averaged_as_its_rows_are_no_inputs() -> None:
    models, base = tuned((6, 4), 2, seed=0)
    site = MemorySite(models, base)
    site.name = "model.embed_tokens.weight"
    assert np.allclose(merged(Wudi(), site), np.mean(models, axis=0), atol=1e-6)
    site.name = "model.layers.0.mlp.up_proj.weight"
    assert not np.allclose(merged(Wudi(), site), np.mean(models, axis=0), atol=1e-3)


def test_limits_one_model_is_that_model_and_no_change_is_the_base() -> None:
    models, base = tuned((5, 8), 1, seed=0)
    assert np.allclose(merged(Wudi(), MemorySite(models, base)), models[0], atol=1e-6)
    assert np.array_equal(merged(Wudi(), MemorySite([base, base], base)), base)


def test_limits_who_did_not_move_has_no_say() -> None:
    models, base = tuned((5, 4), 2, seed=0)
    both = merged(Wudi(), MemorySite(models, base))
    assert np.array_equal(merged(Wudi(), MemorySite([*models, base], base)), both)


def test_limits_directions_that_nobody_reads_stay_at_the_base() -> None:
    base = normal(4, 6, seed=0)
    models = [base.copy(), base.copy()]
    for seed, model in enumerate(models, 1):
        model[:, :3] += normal(4, 3, seed=seed)
    assert np.allclose(merged(Wudi(), MemorySite(models, base))[:, 3:], base[:, 3:], atol=1e-5)


def test_meaning_tasks_with_inputs_of_their_own_are_disturbed_less() -> None:
    """Each task's matrix was moved along its inputs, which overlap with the other's."""
    base = np.zeros((16, 16), np.float32)
    inputs = [normal(6, 16, seed=1), normal(6, 16, seed=2)]
    inputs[1][:2] = inputs[0][:2] + 0.3 * inputs[1][:2]
    tasks = [normal(16, 6, seed=3 + n) @ x for n, x in enumerate(inputs)]

    def error(found: np.ndarray) -> float:
        pairs = zip(tasks, inputs, strict=True)
        return sum(float(np.square((found - task) @ x.T).sum()) for task, x in pairs)

    site = MemorySite(tasks, base)
    assert error(merged(Wudi(), site)) < 0.5 * error(merged(TaskArithmetic(), site))
    assert error(merged(Wudi(), site)) < 0.5 * error(merged(TaskArithmetic(weight=0.5), site))


def test_a_matrix_of_conv1d_is_known_as_one(tiny_model, tmp_path) -> None:
    base = tiny_model("gpt2")
    models = [variant(base, tmp_path / f"m{seed}", seed) for seed in (1, 2)]
    words = ["merge", "wudi", *map(str, models), str(tmp_path / "out"), "--base", str(base)]
    assert main(words) == 0
    found, start, *ends = map(arrays_of, (tmp_path / "out", base, *models))
    name = next(name for name in start if name.endswith("h.0.mlp.c_fc.weight"))
    site = MemorySite([end[name] for end in ends], start[name])
    site.is_transposed = True
    np.testing.assert_allclose(found[name], merged(Wudi(), site), rtol=1e-4, atol=1e-5)


def test_of_an_unknown_architecture_it_is_said_how_matrices_count(family, tmp_path) -> None:
    folders = [family.base, *family.experts[:2]]
    strange = [Path(shutil.copytree(one, tmp_path / f"s{n}")) for n, one in enumerate(folders)]
    for folder in strange:
        with_config(folder, model_type="unheard", architectures=["Unheard"])
    result = run(strange[1:], tmp_path / "out", "wudi", base=strange[0])
    assert any("all count as [out, in]" in note for note in result.notes)
    known = run(family.experts[:2], tmp_path / "known", "wudi", base=family.base)
    assert not any("[out, in]" in note for note in known.notes)
    assert bytes_of(tmp_path / "out") == bytes_of(tmp_path / "known")
