"""Who of a cluster stays: the kernel, which compares few, against the twin, which compares all."""

import numpy as np
import pytest

from treadle.native import text, text_twins
from treadle.native.documents import Shingles

SHAPES = ("unique", "slots", "tail", "sizes", "random", "chain", "equal", "empty")


def sets_of(shape, num, generator):
    """Return sets of shingles that are nearly alike, in one of several ways."""
    base = generator.choice(1 << 32, 120, replace=False)
    found = []
    for row in range(num):
        own = base.copy()
        if shape == "unique":
            own[generator.integers(0, 120, 6)] = generator.integers(0, 1 << 32, 6)
        elif shape == "slots":
            own[:40:4] = 1000 * np.arange(10) + generator.integers(0, 3, 10)
        elif shape == "tail":
            own = np.concatenate([own, generator.integers(0, 1 << 32, generator.integers(0, 40))])
        elif shape == "sizes":
            own = own[: generator.integers(60, 120)]
        elif shape == "random":
            own = generator.choice(base, generator.integers(1, 120), replace=False)
        elif shape == "chain":
            own = np.arange(3 * row, 3 * row + 60)
        elif shape == "empty":
            own = own[: generator.integers(0, 3)]
        found.append(np.unique(own.astype(np.uint32)))
    starts = np.concatenate([[0], np.cumsum([len(one) for one in found])]).astype(np.int64)
    return Shingles(np.concatenate([*found, np.zeros(1, np.uint32)]), starts)


@pytest.mark.parametrize("threshold", [1e-9, 0.3, 0.5, 0.8, 0.87, 0.95, 1.0])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_kernel_decides_as_the_twin(shape, threshold):
    generator = np.random.Generator(np.random.Philox(SHAPES.index(shape)))
    sets = sets_of(shape, 90, generator)
    places = generator.permutation(90).astype(np.int64)
    clusters = np.repeat(np.arange(3), [1, 20, 69]).astype(np.int64)
    stays = generator.random(90) < 0.1
    keys = generator.integers(0, 4, (90, 3)).astype(np.uint64)
    for bands in (None, keys):
        found = text.leaders(sets, places, clusters, stays, threshold, bands)
        wanted = text_twins.leaders(sets, places, clusters, stays, threshold, bands)
        np.testing.assert_array_equal(found[0], wanted[0])
        np.testing.assert_array_equal(found[1], wanted[1])


@pytest.mark.parametrize("most", [1, 5, 200])
def test_stars_share_a_band_with_who_stays(most):
    generator = np.random.Generator(np.random.Philox(most))
    keys = generator.integers(0, most, (300, 4)).astype(np.uint64)
    stays = generator.random(300) < 0.1
    found = text.stars(keys, stays)
    np.testing.assert_array_equal(found, text_twins.stars(keys, stays))
    for row, leader in enumerate(found.tolist()):
        if leader >= 0:
            assert found[leader] < 0
            assert leader < row
            assert (keys[row] == keys[leader]).any()
        elif not stays[row]:
            met = (keys[:row] == keys[row]).any(axis=1)
            assert (found[:row][met] >= 0).all()
    assert len(text.stars(keys[:0], stays[:0])) == 0


def test_a_large_cluster_of_nearly_equal_sets_is_not_compared_all_with_all():
    """All pairs of 20,000 such sets take most of a minute, rare shingles and sketches a second."""
    import time

    generator = np.random.Generator(np.random.Philox(1))
    sets = sets_of("slots", 20_000, generator)
    rows = np.arange(20_000, dtype=np.int64)
    started = time.process_time()
    found, _ = text.leaders(sets, rows, np.zeros_like(rows), np.zeros(20_000, bool), 0.99)
    assert time.process_time() - started < 15
    assert (found < 0).mean() > 0.5
