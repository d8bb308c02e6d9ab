import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from treadle.combine.merge.base import Floats
from treadle.combine.merge.inputs.sources import TensorSource
from treadle.combine.merge.tokens.permuted import MEAN, OWN_MEAN, ZERO, Permuted


class Rows(TensorSource):
    """A tensor in memory."""

    def __init__(self, array: Floats) -> None:
        self.shape, self.dtype, self.array = array.shape, "F32", array

    def read(self, first: int, target: Floats) -> None:
        target[:] = self.array.reshape(-1)[first : first + target.size]


@st.composite
def permuted(draw: st.DrawFn) -> tuple[Permuted, Floats, int, int]:
    """Draw a permuted tensor, what it should hold, and a range of its elements."""
    num_models, num_rows = draw(st.integers(1, 3)), draw(st.integers(1, 12))
    width, num_tokens = draw(st.integers(1, 5)), draw(st.integers(1, num_rows))
    random = np.random.default_rng(draw(st.integers(0, 99)))
    arrays = [
        random.normal(size=(int(random.integers(1, 12)), width)).astype(np.float32)
        for _ in range(num_models)
    ]
    table = np.stack([random.integers(-1, len(a), num_rows) for a in arrays])
    table[0] = np.maximum(table[0], 0)
    origins = random.integers(-3, num_models, num_rows)
    origins[:num_tokens][origins[:num_tokens] == OWN_MEAN] = ZERO
    rows = np.array([random.integers(0, len(arrays[max(o, 0)])) for o in origins])
    if draw(st.booleans()):  # runs of consecutive rows
        origins[:], rows = 0, np.arange(num_rows) % len(arrays[0])
    expected = np.zeros((num_rows, width), np.float32)
    for row, origin in enumerate(origins):
        owners = [i for i in range(num_models) if table[i, row] >= 0]
        if origin == MEAN:
            expected[row] = np.mean([arrays[i][table[i, row]] for i in owners], axis=0, dtype=float)
        elif origin >= 0:
            expected[row] = arrays[origin][rows[row]]
    mean = expected[:num_tokens].mean(axis=0, dtype=float)
    expected[origins == OWN_MEAN] = mean
    sources = {index: Rows(array) for index, array in enumerate(arrays)}
    first = draw(st.integers(0, num_rows * width - 1))
    size = draw(st.integers(1, num_rows * width - first))
    return Permuted(0, sources, origins, rows, table, num_tokens), expected, first, size


@given(case=permuted())
@settings(max_examples=200, suppress_health_check=[HealthCheck.too_slow])
def test_any_range_is_what_indexing_gives(case: tuple[Permuted, Floats, int, int]) -> None:
    source, expected, first, size = case
    target = np.full(size, np.nan, np.float32)
    source.read(first, target)
    assert source.shape == expected.shape
    assert np.allclose(target, expected.reshape(-1)[first : first + size], atol=1e-6)


def test_consecutive_rows_are_one_read() -> None:
    reads = []

    class Counted(Rows):
        def read(self, first: int, target: Floats) -> None:
            reads.append((first, target.size))
            super().read(first, target)

    source = Counted(np.zeros((100, 4), np.float32))
    rows = np.concatenate([np.arange(50, 100), np.arange(50)])
    origins = np.zeros(100, np.int64)
    Permuted(0, {0: source}, origins, rows, rows[None], 100).read(2, np.empty(396, np.float32))
    assert reads == [(202, 198), (0, 198)]
