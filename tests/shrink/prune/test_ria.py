import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

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
from treadle.shrink.prune import METRICS
from treadle.shrink.prune.methods.magnitude import Magnitude
from treadle.shrink.prune.methods.random import Random
from treadle.shrink.prune.methods.ria import RIA


@given(OUTS, INS, TOKENS, SEEDS, st.sampled_from([0.0, 0.5, 1.0, 2.0]))
def test_reference(out: int, width: int, tokens: int, seed: int, exponent: float) -> None:
    weight, x = normal(out, width, seed=seed), normal(tokens, width, seed=seed + 1)
    found = score(RIA(exponent=exponent), weight, known(x))
    size = weight.abs().double().tolist()
    for i in range(out):
        for j in range(width):
            column = math.fsum(size[k][j] for k in range(out))
            row = math.fsum(size[i])
            norm = math.sqrt(math.fsum(float(x[t, j]) ** 2 for t in range(tokens)))
            expected = (size[i][j] / column + size[i][j] / row) * norm**exponent
            assert float(found[i, j]) == pytest.approx(expected, rel=1e-4)


def test_limits_rows_and_columns_of_zeros_score_zero() -> None:
    weight = normal(4, 5, seed=0)
    weight[2], weight[:, 3] = 0.0, 0.0
    found = score(RIA(), weight, known(normal(6, 5, seed=1)))
    assert not found.isnan().any()
    assert not found[2].any()
    assert not found[:, 3].any()


def test_limits_exponent_zero_on_dead_channels_ignores_the_inputs() -> None:
    weight = normal(3, 4, seed=0)
    loud, dead = known(normal(5, 4, seed=1)), known(torch.zeros(5, 4))
    metric = RIA(exponent=0.0)
    assert torch.equal(score(metric, weight, loud), score(metric, weight, dead))


def test_limits_the_exponents_bounds() -> None:
    for exponent in (-0.1, 2.1):
        with pytest.raises(ValueError, match=r"prune metric 'ria': exponent = .* is refused"):
            METRICS.resolve({"method": "ria", "exponent": exponent})


def test_meaning_no_channel_of_small_weights_disappears() -> None:
    """Magnitude over the whole matrix removes quiet columns; relative importance does not."""
    weight, x = normal(16, 32, seed=0), normal(64, 32, seed=1)
    weight[:, :8] *= 0.02
    by_ria = pruned_by(RIA(), weight, known(x), pattern="tensor")
    by_size = pruned_by(Magnitude(), weight, known(x), pattern="tensor")
    assert not by_size[:, :8].any()
    assert bool(by_ria[:, :8].any(dim=0).all())


def test_meaning_beats_random_on_loud_channels() -> None:
    weight, x = loud_channels(4)
    mine = output_error(weight, pruned_by(RIA(), weight, known(x)), x)
    assert mine < 0.5 * output_error(weight, pruned_by(Random(), weight, known(x)), x)
