import torch

from shrink.prune.cases import known, normal, score
from treadle.shrink.prune.methods.random import Random


def test_reference_uniform_numbers_of_the_generator() -> None:
    weight = normal(50, 80, seed=0)
    found = score(Random(), weight, known())
    assert torch.equal(found, torch.rand(50, 80, generator=torch.Generator().manual_seed(0)))
    assert 0.0 <= float(found.min()) <= float(found.max()) < 1.0


def test_limits_one_weight() -> None:
    assert score(Random(), normal(1, 1, seed=0), known()).shape == (1, 1)


def test_meaning_the_weights_do_not_matter() -> None:
    first, second = normal(30, 40, seed=1), normal(30, 40, seed=2) * 100
    assert torch.equal(score(Random(), first, known()), score(Random(), second, known()))
    correlation = torch.corrcoef(
        torch.stack([score(Random(), first, known()).flatten(), first.abs().flatten()])
    )[0, 1]
    assert abs(float(correlation)) < 0.1
