import math

import pytest
import torch
from hypothesis import given

from shrink.prune.cases import (
    INS,
    OUTS,
    SEEDS,
    TOKENS,
    known,
    loud_channels,
    normal,
    output_error,
    pruned_by,
    score,
)
from treadle.shrink.prune.methods.magnitude import Magnitude
from treadle.shrink.prune.methods.random import Random
from treadle.shrink.prune.methods.wanda import Wanda


@given(OUTS, INS, TOKENS, SEEDS)
def test_reference(out: int, width: int, tokens: int, seed: int) -> None:
    weight, x = normal(out, width, seed=seed), normal(tokens, width, seed=seed + 1)
    found = score(Wanda(), weight, known(x))
    for i in range(out):
        for j in range(width):
            norm = math.sqrt(math.fsum(float(x[t, j]) ** 2 for t in range(tokens)))
            assert float(found[i, j]) == pytest.approx(abs(float(weight[i, j])) * norm, rel=1e-5)


def test_limits_dead_channels_go_first() -> None:
    weight, x = normal(4, 8, seed=0), normal(1, 8, seed=1)
    weight[:, 5:] *= 1000
    x[:, 5:] = 0.0
    kept = pruned_by(Wanda(), weight, known(x), sparsity=0.375) != 0
    assert kept.tolist() == [[True] * 5 + [False] * 3] * 4


def test_limits_no_input_at_all_prunes_from_the_left() -> None:
    kept = pruned_by(Wanda(), normal(2, 6, seed=0), known(torch.zeros(3, 6))) != 0
    assert kept.tolist() == [[False] * 3 + [True] * 3] * 2


def test_meaning_beats_magnitude_and_random_on_loud_channels() -> None:
    for seed in range(3):
        weight, x = loud_channels(seed)
        mine, size, control = (
            output_error(weight, pruned_by(metric, weight, known(x)), x)
            for metric in (Wanda(), Magnitude(), Random())
        )
        assert mine < 0.2 * size < 0.2 * control
