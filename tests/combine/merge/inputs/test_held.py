"""Runs that stay in memory from the first reading on."""

import numpy as np
import pytest

from treadle.combine.merge.inputs import sources
from treadle.combine.merge.inputs.sources import CHUNK_ELEMENTS, Inputs, TensorSource


class Counting(TensorSource):
    """A tensor whose numbers say where they stand, and that counts how many were read."""

    def __init__(self, start: float, shape: tuple[int, ...]) -> None:
        self.shape, self.dtype, self.num_read = shape, "F32", 0
        self._start = np.float32(start)

    def read(self, first, target) -> None:
        self.num_read += target.size
        target[:] = self._start + np.arange(first, first + target.size, dtype=np.float32)


def inputs_of(num_elements, has_base=True) -> Inputs:
    made = [Counting(start, (num_elements,)) for start in (0.0, 0.5, 0.25)]
    return Inputs("x", tuple(made[:2]), made[2] if has_base else None, (0, 0))


@pytest.mark.parametrize("has_base", [True, False])
@pytest.mark.parametrize("num_elements", [1, CHUNK_ELEMENTS, 3 * CHUNK_ELEMENTS + 7])
def test_each_number_is_read_once_and_stays_as_it_was_left(num_elements, has_base):
    inputs = inputs_of(num_elements, has_base)
    plain = [(c.first, c.models.copy(), c.base) for c in inputs.chunks("elements")]
    before = [source.num_read for source in inputs.models]
    with inputs.holding() as site:
        for again in range(3):
            for chunk, (first, models, base) in zip(site.chunks("elements"), plain, strict=True):
                assert chunk.first == first
                assert np.array_equal(chunk.models, models + again)
                assert (chunk.base is None) == (base is None)
                chunk.models[:] += 1
    after = [source.num_read for source in inputs.models]
    assert [b - a for a, b in zip(before, after, strict=True)] == [num_elements] * 2


def test_two_tensors_at_a_time_have_rooms_of_their_own():
    one, other = inputs_of(100), inputs_of(100)._replace(models=(Counting(7.0, (100,)),))
    with one.holding() as first, other.holding() as second:
        (mine,), (theirs,) = list(first.chunks("elements")), list(second.chunks("elements"))
        assert mine.models[0, 0] == 0
        assert theirs.models[0, 0] == 7
    num_rooms = len(sources._ROOMS)
    with one.holding() as first:
        list(first.chunks("elements"))
    assert len(sources._ROOMS) == num_rooms, "a room is used again"


def test_a_tensor_beyond_the_cache_is_read_as_often_as_it_takes(monkeypatch):
    monkeypatch.setattr(sources, "_MOST_HELD", 299)
    inputs = inputs_of(100)
    with inputs.holding() as site:
        assert site is inputs
