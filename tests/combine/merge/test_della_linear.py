"""What the sum adds; the rest is tested along with della."""

import numpy as np
import pytest

from combine.merge.sites import MemorySite, merged, normal, tuned
from treadle.combine.merge.methods.dare import DareLinear
from treadle.combine.merge.methods.della import Della, DellaLinear
from treadle.combine.merge.methods.task_arithmetic import TaskArithmetic


@pytest.mark.parametrize("normalize", [False, True])
def test_reference_without_dropping_it_is_task_arithmetic(normalize: bool) -> None:
    models, base = tuned((6, 7), 3, seed=0)
    settings = {"weight": (1.0, 0.5, 2.0), "normalize": normalize}
    found = merged(DellaLinear(**settings), MemorySite(models, base))
    assert np.array_equal(found, merged(TaskArithmetic(**settings), MemorySite(models, base)))


def test_limits_one_model_is_della() -> None:
    models, base = tuned((6, 7), 1, seed=0)
    summed = merged(DellaLinear(density=0.5), MemorySite(models, base))
    elected = merged(Della(density=0.5, normalize=False), MemorySite(models, base))
    assert np.array_equal(summed, elected)


def test_limits_an_epsilon_of_zero_is_dare() -> None:
    models, base = tuned((6, 7), 2, seed=0)
    found = merged(DellaLinear(density=0.5, epsilon=0.0), MemorySite(models, base))
    assert np.allclose(found, merged(DareLinear(density=0.5), MemorySite(models, base)), atol=1e-6)


def test_meaning_it_keeps_more_of_the_norm_than_dare() -> None:
    base, model = np.zeros((50, 100), np.float32), normal(50, 100, seed=0)
    site = MemorySite([model], base, 999)
    kept = merged(DellaLinear(density=0.5, epsilon=0.4, rescale=False), site)
    other = merged(DareLinear(density=0.5, rescale=False), site)
    assert np.abs(kept).sum() > 1.2 * np.abs(other).sum()
