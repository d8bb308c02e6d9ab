"""Small matrices and their statistics, for the tests of single methods; not a test itself."""

import torch
from hypothesis import strategies as st

from treadle.model.statistics import InputStatistics
from treadle.shrink.prune.base import Metric, Statistics
from treadle.shrink.prune.patterns import choose, parse_pattern

SEEDS = st.integers(0, 10_000)
OUTS = st.integers(1, 7)
INS = st.integers(1, 12)
TOKENS = st.integers(1, 30)


def normal(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def known(x: torch.Tensor | None = None, gradient: torch.Tensor | None = None) -> Statistics:
    """What calibration on the rows of `x` knows of a matrix that reads them."""
    if x is None:
        return Statistics(None, gradient)
    inputs = InputStatistics(x.shape[1], True)
    inputs.add(x)
    return Statistics(inputs, gradient)


def score(metric: Metric, weight: torch.Tensor, statistics: Statistics) -> torch.Tensor:
    return metric.score(weight, statistics, torch.Generator().manual_seed(0))


def pruned_by(
    metric: Metric,
    weight: torch.Tensor,
    statistics: Statistics,
    sparsity: float = 0.5,
    pattern: str = "rows",
) -> torch.Tensor:
    return weight * choose(score(metric, weight, statistics), parse_pattern(pattern), sparsity)


def output_error(weight: torch.Tensor, changed: torch.Tensor, x: torch.Tensor) -> float:
    """The share of the output's energy that pruning cost."""
    exact = x.double() @ weight.double().T
    return float((x.double() @ changed.double().T - exact).square().sum() / exact.square().sum())


def loud_channels(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A weight, and inputs of which every fourth channel is twenty times as loud."""
    x = normal(64, 32, seed=seed)
    x[:, ::4] *= 20.0
    return normal(16, 32, seed=seed + 1), x
