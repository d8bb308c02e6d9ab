"""What the sum adds; the rest is tested along with dare_ties."""

import numpy as np
import pytest

from combine.merge.sites import MemorySite, merged, normal, tuned
from treadle.combine.merge.methods.dare import DareLinear
from treadle.combine.merge.methods.task_arithmetic import TaskArithmetic


@pytest.mark.parametrize("normalize", [False, True])
def test_reference_without_dropping_it_is_task_arithmetic(normalize: bool) -> None:
    models, base = tuned((6, 7), 3, seed=0)
    settings = {"weight": (1.0, 0.5, 2.0), "normalize": normalize}
    found = merged(DareLinear(**settings), MemorySite(models, base))
    assert np.array_equal(found, merged(TaskArithmetic(**settings), MemorySite(models, base)))


def test_limits_models_draw_their_own_masks() -> None:
    base = np.zeros(2000, np.float32)
    site = MemorySite([base + 1.0, base + 10.0], base, 300)
    found = merged(DareLinear(density=0.5, rescale=False), site)
    for value in (0.0, 1.0, 10.0, 11.0):
        assert np.mean(found == value) == pytest.approx(0.25, abs=0.04)


def test_meaning_few_elements_collide() -> None:
    """Where two models changed the same elements, a thin mask leaves most to one of them."""
    base = np.zeros(4000, np.float32)
    changes = [normal(4000, seed=1), normal(4000, seed=2)]
    found = merged(DareLinear(density=0.1, rescale=False), MemorySite(changes, base, 999))
    alone = np.isin(found, changes[0]) | np.isin(found, changes[1])
    assert np.count_nonzero(alone & (found != 0)) > 8 * np.count_nonzero(~alone & (found != 0))
