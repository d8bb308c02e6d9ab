"""Conflict against its definition in loops, and what it means."""

from pathlib import Path

import numpy as np
import pytest

from combine.merge.conflict.bundles import arrays, variants
from combine.merge.models import variant
from treadle.combine.merge.conflict.choosing import chosen_layers, packed_bytes
from treadle.combine.merge.conflict.measures import LayerConflict, conflicts, labels_of
from treadle.combine.merge.expert_names import expert_names
from treadle.combine.merge.inputs.models import Models
from treadle.combine.merge.plan import make_plan
from treadle.combine.merge.recipe.grammar import of_models


def measured(base: Path, models: list[Path], kept: float = 0.2) -> list[LayerConflict]:
    opened = Models()
    try:
        plan = make_plan(of_models("task_arithmetic", models, base), opened, 0)
        return conflicts(plan.jobs, kept)
    finally:
        opened.close()


def test_against_loops(llama: Path, tmp_path: Path):
    models = variants(llama, tmp_path, 3)
    dense, tuned = arrays(llama), [arrays(model) for model in models]
    for layer in measured(llama, models):
        active = conflict = 0
        sums = changes = 0.0
        products = np.zeros((3, 3))
        for name in layer.tensors:
            deltas = np.stack([one[name].reshape(-1) - dense[name].reshape(-1) for one in tuned])
            kept = np.zeros_like(deltas)
            for row, own in zip(kept, deltas, strict=True):
                largest = np.argsort(-np.abs(own), kind="stable")[: max(1, int(0.2 * own.size))]
                row[largest] = own[largest]
            for column in kept.T:
                signs = {float(np.sign(value)) for value in column if value}
                active += sum(value != 0 for value in column) >= 2
                conflict += len(signs) == 2
            sums += np.abs(deltas.astype(np.float64).sum(axis=0)).sum()
            changes += np.abs(deltas.astype(np.float64)).sum()
            products += deltas.astype(np.float64) @ deltas.astype(np.float64).T
        assert (layer.num_active, layer.num_conflicts) == (active, conflict)
        assert layer.cancelled == pytest.approx(1 - sums / changes, rel=1e-5)
        np.testing.assert_allclose(layer.products, products, rtol=1e-5, atol=1e-9)


def test_models_that_agree_have_none_and_strangers_half(llama: Path, tmp_path: Path):
    one = variant(llama, tmp_path / "one", 1, 0.3)
    same = variant(llama, tmp_path / "same", 1, 0.3)
    assert all(layer.conflict == 0 for layer in measured(llama, [one, same]))
    assert all(layer.apartness < 1e-6 for layer in measured(llama, [one, same]))
    other = variant(llama, tmp_path / "other", 2, 0.3)
    blocks = [layer for layer in measured(llama, [one, other]) if layer.layer.isdigit()]
    assert all(0.4 < layer.conflict < 0.6 for layer in blocks)
    assert all(0.45 < layer.apartness < 0.55 for layer in blocks)


def made(*scores: float) -> list[LayerConflict]:
    return [
        LayerConflict(str(n), (), 100, 100, round(100 * score), 1, 1, np.eye(2))
        for n, score in enumerate(scores)
    ]


def test_layers_are_chosen_by_each_rule():
    layers, sizes = made(0.1, 0.5, 0.3, 0.2), {"0": 10, "1": 50, "2": 20, "3": 10}
    assert chosen_layers(layers, sizes, "conflict", 0.5, None, 0) == ["1", "2"]
    assert chosen_layers(layers, sizes, "lowest", 0.5, None, 0) == ["0", "3"]
    assert chosen_layers(layers, sizes, "conflict", None, None, 0) == ["1", "2"]  # above the mean
    assert chosen_layers(layers, sizes, "conflict", None, 40, 0) == ["0", "2", "3"]
    assert chosen_layers(layers, sizes, "conflict", 0.0, None, 0) == []
    assert chosen_layers(layers, sizes, "conflict", 0.01, None, 0) == ["1"]
    assert chosen_layers(layers, sizes, "conflict", 1.0, None, 0) == ["0", "1", "2", "3"]
    draws = {tuple(chosen_layers(layers, sizes, "random", 0.5, None, seed)) for seed in range(8)}
    assert len(draws) > 1


def test_bytes_and_names():
    said = 200
    assert packed_bytes((64, 100), 2, 0.1, False) == 640 * 2 + 800 + 2 * said
    assert packed_bytes((64, 100), 2, 0.001, True) == 64 * 2 + 800 + 2 * said  # one a row
    whole = packed_bytes((64, 100), 2, 1.0, False)
    assert whole == packed_bytes((6400,), 2, 0.1, False) == 12800 + said
    assert labels_of(["model.embed.weight", "model.layers.10.a.weight", "lm_head.weight"]) == {
        "model.embed.weight": "embedding",
        "model.layers.10.a.weight": "10",
        "lm_head.weight": "head",
    }
    assert expert_names(["/a/x", "/b/x", "y", "dense"]) == ["x-1", "x-2", "y", "dense-4"]


def test_layers_stand_in_the_order_of_the_model(tmp_path: Path):
    from treadle.model import tiny

    base = tiny.build("llama", tmp_path / "deep", seed=1, num_hidden_layers=12)
    layers = measured(base, variants(base, tmp_path))
    assert [one.layer for one in layers] == ["embedding", *map(str, range(12)), "head"]
