import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from combine.merge.sites import RUNS, ranked
from treadle.combine.merge.maths.order_statistics import NOTHING, Largest, Magnitudes

NUMBERS = st.one_of(
    st.sampled_from([0.0, -0.0, 1.0, -1.0, 1e-45, 3e38]), st.floats(-1e3, 1e3, width=32)
)
VALUES = arrays(np.float32, st.integers(1, 60), elements=NUMBERS)


def cutoff_of(values, rank, run):
    runs = [values[first : first + run] for first in range(0, values.size, run)]
    magnitudes = Magnitudes()
    for part in runs:
        magnitudes.count(part)
    magnitudes.ask(rank, values.size)
    for part in runs:
        magnitudes.refine(part)
    return magnitudes.cutoff(rank), runs


@given(VALUES, RUNS, st.data())
def test_the_largest_are_those_of_a_stable_sort(values, run, data) -> None:
    rank = data.draw(st.integers(0, values.size))
    cutoff, runs = cutoff_of(values, rank, run)
    largest = Largest(cutoff)
    found = np.concatenate([largest.among(np.abs(part)) for part in runs])
    assert sorted(np.flatnonzero(found)) == sorted(ranked(values.tolist())[:rank])
    if rank:
        assert cutoff.num_equal == np.count_nonzero(np.abs(values) == cutoff.magnitude)
    else:
        assert cutoff == NOTHING


def test_a_rank_beyond_the_stream_is_our_mistake() -> None:
    with pytest.raises(AssertionError, match="fewer elements than the rank"):
        cutoff_of(np.ones(3, np.float32), 4, 2)
