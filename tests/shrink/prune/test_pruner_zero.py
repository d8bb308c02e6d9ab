import pytest
import torch
from hypothesis import given

from shrink.prune.cases import INS, OUTS, SEEDS, known, normal, pruned_by, score
from treadle.shrink.prune.methods.pruner_zero import PrunerZero
from treadle.shrink.prune.methods.random import Random


@given(OUTS, INS, SEEDS)
def test_reference(out: int, width: int, seed: int) -> None:
    weight, gradient = normal(out, width, seed=seed), normal(out, width, seed=seed + 1).abs()
    found = score(PrunerZero(), weight, known(gradient=gradient))
    entries = [float(g) for g in gradient.flatten()]
    low, high = min(entries), max(entries)
    for i in range(out):
        for j in range(width):
            scaled = 1.0 if low == high else (float(gradient[i, j]) - low) / (high - low)
            expected = float(weight[i, j]) ** 2 * scaled
            assert float(found[i, j]) == pytest.approx(expected, rel=1e-4, abs=1e-7)


def test_limits_equal_gradients_fall_back_on_the_weights() -> None:
    weight = normal(3, 5, seed=0)
    for value in (0.0, 2.5):
        found = score(PrunerZero(), weight, known(gradient=torch.full((3, 5), value)))
        assert torch.equal(found, weight.square())


def test_limits_the_gradients_scale_cancels() -> None:
    weight, gradient = normal(4, 6, seed=0), normal(4, 6, seed=1).abs()
    for factor in (1e-3, 100.0):
        torch.testing.assert_close(
            score(PrunerZero(), weight, known(gradient=gradient)),
            score(PrunerZero(), weight, known(gradient=gradient * factor)),
        )


def test_meaning_removes_less_of_the_losss_second_order_than_random() -> None:
    """Where the loss is Σ G²W² (the empirical Fisher), keeping by W² · G costs least."""
    weight, gradient = normal(16, 32, seed=2), normal(16, 32, seed=3).abs() ** 2
    statistics = known(gradient=gradient)

    def cost(metric) -> float:
        gone = weight - pruned_by(metric, weight, statistics)
        return float((gone * gradient).square().sum())

    assert cost(PrunerZero()) < 0.2 * cost(Random())
