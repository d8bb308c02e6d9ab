import torch

from shrink.prune.cases import known, normal
from treadle.shrink.prune.methods.none import NoUpdate
from treadle.shrink.prune.patterns import parse_pattern


def test_reference_survivors_keep_their_values() -> None:
    weight = normal(5, 7, seed=0)
    keep = normal(5, 7, seed=1) > 0
    found = NoUpdate().apply(weight, keep, parse_pattern("rows"), 0.5, known())
    for i in range(5):
        for j in range(7):
            assert float(found[i, j]) == (float(weight[i, j]) if keep[i, j] else 0.0)


def test_limits_an_infinite_weight_that_goes_leaves_zero_not_nan() -> None:
    weight, keep = torch.tensor([[float("inf"), 1.0]]), torch.tensor([[False, True]])
    found = NoUpdate().apply(weight, keep, parse_pattern("rows"), 0.5, known())
    assert found.tolist() == [[0.0, 1.0]]


def test_limits_zeros_are_positive() -> None:
    """-0.0 would differ in bytes from 0.0, and so in every content hash."""
    weight, keep = -torch.ones(2, 3), torch.zeros(2, 3, dtype=torch.bool)
    found = NoUpdate().apply(weight, keep, parse_pattern("rows"), 1.0, known())
    assert not found.signbit().any()
