"""The column solver as quantisation uses it: codes instead of zeros."""

import pytest
import torch

from treadle.core.errors import SettingsError
from treadle.model.obs import solve_columns
from treadle.model.statistics import InputStatistics

STEP = 0.5


def rounded(block: torch.Tensor, upper: torch.Tensor, first: int) -> torch.Tensor:
    """Round column after column to a grid, and let the later ones of the block make up for it."""
    errors = torch.empty_like(block)
    for j in range(block.shape[1]):
        code = (block[:, j] / STEP).round() * STEP
        errors[:, j] = (block[:, j] - code) / upper[j, j]
        block[:, j] = code
        block[:, j + 1 :] -= errors[:, j, None] * upper[j, j + 1 :]
    return errors


def case(seed: int) -> tuple[torch.Tensor, torch.Tensor, InputStatistics]:
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(24, 24, generator=generator)
    x = torch.randn(200, 24, generator=generator) @ mixing
    known = InputStatistics(24, needs_gram=True)
    known.add(x)
    return torch.randn(16, 24, generator=generator), x, known


@pytest.mark.parametrize("block_columns", [1, 5, 24, 100])
def test_blocks_change_nothing(block_columns: int) -> None:
    weight, _, known = case(0)
    whole = solve_columns(weight, known, rounded, damp_fraction=0.01, block_columns=24)
    cut = solve_columns(weight, known, rounded, damp_fraction=0.01, block_columns=block_columns)
    torch.testing.assert_close(cut, whole, rtol=0, atol=1e-4)


@pytest.mark.parametrize("seed", range(3))
def test_meaning_it_beats_rounding_each_weight_alone(seed: int) -> None:
    weight, x, known = case(seed)
    solved = solve_columns(weight, known, rounded, damp_fraction=0.01, block_columns=8)
    alone = (weight / STEP).round() * STEP
    assert torch.equal(solved, (solved / STEP).round() * STEP)
    lost = [float(((one - weight) @ x.T).square().sum()) for one in (solved, alone)]
    assert lost[0] < 0.6 * lost[1]


def test_what_cannot_be_solved_is_refused() -> None:
    weight, _, known = case(0)
    for bad in (0, -1):
        with pytest.raises(SettingsError, match="give at least 1"):
            solve_columns(weight, known, rounded, damp_fraction=0.01, block_columns=bad)
    with pytest.raises(SettingsError, match="convert them"):
        solve_columns(weight.half(), known, rounded, damp_fraction=0.01, block_columns=4)
