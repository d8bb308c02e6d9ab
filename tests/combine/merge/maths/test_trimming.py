import numpy as np
import pytest

from combine.merge.sites import MemorySite, tuned
from treadle.combine.merge.maths.thinned import within
from treadle.combine.merge.maths.trimming import Band, Trim, largest, limits, middle


def test_bands_of_the_largest() -> None:
    models, base = tuned((10,), 1, seed=0)
    site = MemorySite(models, base)
    assert largest(site, (0.0, 0.01, 0.39, 1.0)) == [Band(0, 0), Band(0, 1), Band(0, 3), None]


def test_bands_of_the_middle_skip_less_where_too_few_are_left() -> None:
    models, base = tuned((10,), 1, seed=0)
    site = MemorySite(models, base)
    found = middle(site, (0.0, 0.5, 0.95, 1.0), (0.2, 0.2, 0.2, 0.2))
    assert found == [Band(2, 0), Band(2, 5), Band(1, 9), None]


def test_densities_are_as_exact_as_they_were_given() -> None:
    """0.7 as a float32 is below 0.7, and seven tenths of ten would be six."""
    models, base = tuned((10,), 1, seed=0)
    assert largest(MemorySite(models, base), (0.7,)) == [Band(0, 7)]


@pytest.mark.parametrize("run", [1, 3, 100])
def test_models_are_trimmed_each_by_its_band(run: int) -> None:
    base = np.zeros(6, np.float32)
    model = np.array([3, -1, 2, 2, -5, 4], np.float32)
    site = MemorySite([model] * 4, base, run)
    trim = Trim(limits(site, [Band(0, 3), Band(1, 3), None, Band(0, 0)]))
    rows = []
    for chunk in site.chunks("elements"):
        trim(chunk.models)
        rows.append(chunk.models.copy())
    assert np.hstack(rows).tolist() == [
        [3, 0, 0, 0, -5, 4],
        [3, 0, 2, 0, 0, 4],
        [3, -1, 2, 2, -5, 4],
        [0, 0, 0, 0, 0, 0],
    ]


def test_factors_restore_the_norm_and_leave_what_is_whole() -> None:
    base = np.zeros(4, np.float32)
    model = np.array([1, 2, 3, 4], np.float32)
    site = MemorySite([model, model], base, 3)
    found = within(site, [Band(0, 1), None], rescale=True)
    assert found.factors.tolist() == [2.5, 1.0]
    assert within(site, [Band(0, 1), None], rescale=False).factors.tolist() == [1.0, 1.0]
