"""The OBS update against the paper's equation, with an explicit inverse for every column."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from shrink.prune.cases import OUTS, SEEDS, known, normal, output_error, score
from treadle.core.errors import SettingsError
from treadle.shrink.prune import UPDATES
from treadle.shrink.prune.methods.magnitude import Magnitude
from treadle.shrink.prune.methods.none import NoUpdate
from treadle.shrink.prune.methods.obs import OBS
from treadle.shrink.prune.patterns import choose, parse_pattern

ROWS = parse_pattern("rows")


def damped(x: torch.Tensor, damp: float = 0.01) -> torch.Tensor:
    hessian = x.double().T @ x.double()
    dead = hessian.diagonal() == 0
    hessian[dead, dead] = 1.0
    return hessian + damp * hessian.diagonal().mean() * torch.eye(len(hessian))


def naive(weight: torch.Tensor, keep: torch.Tensor, hessian: torch.Tensor) -> torch.Tensor:
    """Remove column by column; later weights move by -w_j / [H⁻¹]_jj · H⁻¹_j, H of what is left."""
    found = weight.double().clone()
    for row in range(found.shape[0]):
        for j in range(found.shape[1]):
            if not keep[row, j]:
                inverse = torch.linalg.inv(hessian[j:, j:])
                found[row, j:] -= found[row, j] / inverse[0, 0] * inverse[0]
                found[row, j] = 0.0
    return found


@given(OUTS, st.integers(1, 10), st.integers(1, 10), SEEDS)
def test_reference(out: int, width: int, block_columns: int, seed: int) -> None:
    weight, x = normal(out, width, seed=seed), normal(3 * width, width, seed=seed + 1)
    keep = normal(out, width, seed=seed + 2) > 0
    update = OBS(block_columns=block_columns)
    found = update.apply(weight, keep, ROWS, 0.5, known(x))
    torch.testing.assert_close(found.double(), naive(weight, keep, damped(x)), rtol=1e-3, atol=1e-4)
    assert torch.equal(found == 0, ~keep)


def test_the_update_leaves_its_arguments_alone() -> None:
    weight, x = normal(4, 6, seed=0), normal(20, 6, seed=1)
    keep = weight > 0
    before = weight.clone()
    OBS().apply(weight, keep, ROWS, 0.5, known(x))
    assert torch.equal(weight, before)


def test_limits_keep_everything_or_nothing() -> None:
    weight, x = normal(4, 6, seed=0), normal(20, 6, seed=1)
    kept = OBS().apply(weight, torch.ones(4, 6, dtype=torch.bool), ROWS, 0.0, known(x))
    assert torch.equal(kept, weight)
    gone = OBS().apply(weight, torch.zeros(4, 6, dtype=torch.bool), ROWS, 1.0, known(x))
    assert not gone.any()


def test_limits_one_token_and_dead_channels() -> None:
    weight, x = normal(4, 6, seed=0), normal(1, 6, seed=1)
    x[:, 2] = 0.0
    keep = torch.ones(4, 6, dtype=torch.bool)
    keep[:, 0] = False
    found = OBS().apply(weight, keep, ROWS, 0.5, known(x))
    assert bool(found.isfinite().all())
    assert not found[:, 2].any(), "a channel that never fired loses its weights"
    assert not found[:, 0].any()


@pytest.mark.parametrize("field", [{"damp_fraction": 0.0}, {"block_columns": 257}])
def test_limits_bounds(field: dict) -> None:
    with pytest.raises(SettingsError, match=f"prune update 'obs': {next(iter(field))} = .*refused"):
        UPDATES.resolve({"method": "obs", **field})


@pytest.mark.parametrize("pattern", ["rows", "tensor", "2:4"])
def test_meaning_repairs_a_mask_on_correlated_inputs(pattern: str) -> None:
    mix = normal(16, 16, seed=5) + 2.0
    x, weight = normal(100, 16, seed=6) @ mix, normal(8, 16, seed=7)
    keep = choose(score(Magnitude(), weight, known()), parse_pattern(pattern), 0.5)
    alone = NoUpdate().apply(weight, keep, parse_pattern(pattern), 0.5, known(x))
    repaired = OBS().apply(weight, keep, parse_pattern(pattern), 0.5, known(x))
    assert torch.equal(repaired != 0, keep)
    assert output_error(weight, repaired, x) < 0.6 * output_error(weight, alone, x)
