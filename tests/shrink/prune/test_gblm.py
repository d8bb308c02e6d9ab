import math

import pytest
import torch
from hypothesis import given

from shrink.prune.cases import INS, OUTS, SEEDS, TOKENS, known, normal, pruned_by, score
from treadle.shrink.prune.methods.gblm import GBLM
from treadle.shrink.prune.methods.random import Random
from treadle.shrink.prune.methods.wanda import Wanda


@given(OUTS, INS, TOKENS, SEEDS)
def test_reference(out: int, width: int, tokens: int, seed: int) -> None:
    weight, x = normal(out, width, seed=seed), normal(tokens, width, seed=seed + 1)
    gradient = normal(out, width, seed=seed + 2).abs()
    found = score(GBLM(alpha=7.0), weight, known(x, gradient))
    for i in range(out):
        for j in range(width):
            norm = math.sqrt(math.fsum(float(x[t, j]) ** 2 for t in range(tokens)))
            expected = abs(float(weight[i, j])) * (norm + 7.0 * float(gradient[i, j]))
            assert float(found[i, j]) == pytest.approx(expected, rel=1e-5)


def test_limits_without_gradient_or_with_alpha_zero_it_is_wanda() -> None:
    weight, x, gradient = normal(3, 6, seed=0), normal(9, 6, seed=1), normal(3, 6, seed=2).abs()
    wanda = score(Wanda(), weight, known(x))
    torch.testing.assert_close(score(GBLM(), weight, known(x, torch.zeros(3, 6))), wanda)
    torch.testing.assert_close(score(GBLM(alpha=0.0), weight, known(x, gradient)), wanda)


def test_meaning_keeps_what_the_loss_feels() -> None:
    """Of weights and inputs of one size, the loss feels half; random keeps half of those."""
    x = torch.ones(4, 20)
    weight, gradient = torch.ones(6, 20), torch.zeros(6, 20)
    gradient[:, 1::2] = 1.0
    kept = pruned_by(GBLM(), weight, known(x, gradient)) != 0
    assert kept.tolist() == [[False, True] * 10] * 6
    random = pruned_by(Random(), weight, known(x)) != 0
    assert int((random & (gradient > 0)).sum()) < int((kept & (gradient > 0)).sum())
