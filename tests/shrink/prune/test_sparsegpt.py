"""SparseGPT, metric and update together, against the paper's algorithm with explicit inverses."""

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from shrink.prune.cases import OUTS, SEEDS, known, normal, output_error, pruned_by, score
from shrink.prune.test_obs import damped
from treadle.core.keep import num_pruned
from treadle.shrink.prune.methods.obs import OBS
from treadle.shrink.prune.methods.random import Random
from treadle.shrink.prune.methods.sparsegpt import SparseGPT
from treadle.shrink.prune.methods.wanda import Wanda
from treadle.shrink.prune.patterns import parse_pattern

PATTERNS = st.sampled_from(["rows", "tensor", "2:4", "1:3"])
GAP = 1e-3


def lowest(scores: list[float], count: int) -> set[int]:
    """The places of the `count` lowest; a case whose choice hangs on rounding is thrown away."""
    order = sorted(range(len(scores)), key=scores.__getitem__)
    if 0 < count < len(scores):
        assume(scores[order[count]] > scores[order[count - 1]] * (1 + GAP) + 1e-9)
    return set(order[:count])


def naive(
    weight: torch.Tensor, hessian: torch.Tensor, pattern: str, sparsity: float, width: int
) -> torch.Tensor:
    found, (rows, cols) = weight.double().clone(), weight.shape
    inverses = [torch.linalg.inv(hessian[j:, j:]) for j in range(cols)]
    gone: set[tuple[int, int]] = set()
    for j in range(cols):
        group = int(pattern[2]) if ":" in pattern else width
        if j % group == 0:
            block = range(j, min(j + group, cols))
            now = [
                [float(found[i, k] ** 2 / inverses[k][0, 0]) for k in block] for i in range(rows)
            ]
            if pattern == "tensor":
                flat = [value for row in now for value in row]
                count = num_pruned(len(flat), sparsity)
                chosen = {divmod(place, len(block)) for place in lowest(flat, count)}
            elif pattern == "rows":
                count = num_pruned(block[-1] + 1, sparsity) - num_pruned(j, sparsity)
                chosen = {(i, place) for i in range(rows) for place in lowest(now[i], count)}
            else:
                count = group - int(pattern[0])
                chosen = {(i, place) for i in range(rows) for place in lowest(now[i], count)}
            gone |= {(i, j + place) for i, place in chosen}
        for i in range(rows):
            if (i, j) in gone:
                found[i, j:] -= found[i, j] / inverses[j][0, 0] * inverses[j][0]
                found[i, j] = 0.0
    return found


@given(OUTS, st.integers(1, 3), PATTERNS, st.integers(1, 14), st.floats(0, 1), SEEDS)
def test_reference(
    out: int, groups: int, pattern: str, width: int, sparsity: float, seed: int
) -> None:
    cols = groups * (int(pattern[2]) if ":" in pattern else 4)
    weight, x = normal(out, cols, seed=seed), normal(4 * cols, cols, seed=seed + 1)
    expected = naive(weight, damped(x), pattern, sparsity, width)
    found = OBS(block_columns=width).apply(weight, None, parse_pattern(pattern), sparsity, known(x))
    torch.testing.assert_close(found.double(), expected, rtol=1e-3, atol=1e-4)
    assert torch.equal(found == 0, expected == 0)


@given(OUTS, st.integers(1, 10), SEEDS)
def test_reference_of_the_scores_alone(out: int, width: int, seed: int) -> None:
    weight, x = normal(out, width, seed=seed), normal(3 * width, width, seed=seed + 1)
    found = score(SparseGPT(), weight, known(x))
    hessian = damped(x)
    for j in range(width):
        left = torch.linalg.inv(hessian[j:, j:])[0, 0]
        torch.testing.assert_close(
            found[:, j].double(), weight[:, j].double().square() / left, rtol=1e-3, atol=1e-6
        )


def test_limits_one_token_one_column_and_dead_channels() -> None:
    for pattern, cols in (("rows", 1), ("tensor", 1), ("2:4", 4)):
        x = torch.zeros(1, cols)
        found = OBS().apply(normal(3, cols, seed=0), None, parse_pattern(pattern), 0.5, known(x))
        assert not found.any()


@pytest.mark.parametrize("sparsity", [0.0, 1.0])
@pytest.mark.parametrize("pattern", ["rows", "tensor"])
def test_limits_nothing_and_everything(pattern: str, sparsity: float) -> None:
    weight, x = normal(3, 8, seed=0), normal(30, 8, seed=1)
    found = OBS(block_columns=3).apply(weight, None, parse_pattern(pattern), sparsity, known(x))
    assert torch.equal(found, weight * (1.0 - sparsity))


@pytest.mark.parametrize("pattern", ["rows", "2:4"])
def test_meaning_beats_wanda_and_random_on_correlated_inputs(pattern: str) -> None:
    mix = normal(32, 32, seed=5) + 1.0
    x, weight = normal(200, 32, seed=6) @ mix, normal(16, 32, seed=7)
    mine = OBS(block_columns=8).apply(weight, None, parse_pattern(pattern), 0.5, known(x))
    wanda = pruned_by(Wanda(), weight, known(x), pattern=pattern)
    random = pruned_by(Random(), weight, known(x), pattern=pattern)
    errors = [output_error(weight, changed, x) for changed in (mine, wanda, random)]
    assert errors[0] < 0.5 * errors[1] < 0.5 * errors[2]
