"""Tensors in memory, for the tests of single merge methods; not a test itself."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from hypothesis import strategies as st

from treadle.combine.merge.base import Chunk, Floats, MergeMethod, Unit

SEEDS = st.integers(0, 10_000)
COUNTS = st.integers(1, 4)
PAIRS = st.integers(2, 4)
SHAPES = st.lists(st.integers(1, 7), min_size=0, max_size=3).map(tuple)
RUNS = st.integers(1, 50)


class MemorySite:
    """A tensor whose runs may be shorter than itself; buffers are poisoned between runs."""

    name = "tensor"
    is_transposed = False
    surveyed: Any = None

    def __init__(
        self, models: Sequence[Floats], base: Floats | None = None, run: int = 5, seed: int = 0
    ) -> None:
        self._models = [np.asarray(model, np.float32) for model in models]
        self._base = None if base is None else np.asarray(base, np.float32)
        self.shape = self._models[0].shape
        self.keys = tuple(1_000_003 * seed + place for place in range(len(models)))
        self.run = run
        self.num_passes = 0

    def chunks(self, unit: Unit) -> Iterator[Chunk]:
        self.num_passes += 1
        size = self._models[0].size
        width = self.shape[-1] if self.shape else 1
        steps = {"elements": self.run, "rows": max(1, self.run // width) * width, "tensor": size}
        for first in range(0, size, steps[unit]):
            part = slice(first, min(size, first + steps[unit]))
            models = np.stack([model.reshape(-1)[part] for model in self._models])
            base = None if self._base is None else self._base.reshape(-1)[part].copy()
            kept = None if base is None else base.copy()
            yield Chunk(first, models, base)
            if base is not None:
                assert np.array_equal(base, kept), "the base is not to be changed"
                base[:] = np.nan
            models[:] = np.nan


def merged(method: MergeMethod, site: MemorySite) -> Floats:
    """Merge as the driver does."""
    known = method.measure(site)
    runs = []
    for chunk in site.chunks(method.unit):
        run = method.merge(chunk, site, known)
        assert run.dtype == np.float32
        runs.append(run.copy())
    return np.concatenate(runs).reshape(site.shape)


def normal(*shape: int, seed: int) -> Floats:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def tuned(
    shape: tuple[int, ...], num_models: int, seed: int, distance: float = 0.1
) -> tuple[list[Floats], Floats]:
    """Models near a base, and the base."""
    base = normal(*shape, seed=seed)
    models = [
        base + np.float32(distance) * normal(*shape, seed=seed + 1 + place)
        for place in range(num_models)
    ]
    return models, base


def deltas_of(models: Sequence[Floats], base: Floats) -> list[list[float]]:
    """The flat task vectors as float32 has them, as lists of Python's floats."""
    return [(model - base).reshape(-1).tolist() for model in models]


def flat(array: Floats) -> list[float]:
    return array.reshape(-1).tolist()


def ranked(values: Sequence[float]) -> list[int]:
    """Places from the largest magnitude on; of equal ones the first comes first."""
    return sorted(range(len(values)), key=lambda place: (-abs(values[place]), place))


def elected(vectors: Sequence[Sequence[float]], weights: Sequence[float], normalize: bool):
    """The sum of what shares the sign of the sum, once more, element by element."""
    found = []
    for column in zip(*vectors, strict=True):
        # As float32 adds up, so that a sum of nearly zero has the same sign.
        total = np.float32(0.0)
        for value in column:
            total = np.float32(total + np.float32(value))
        sign = 1 if total >= 0 else -1
        agree = [place for place, value in enumerate(column) if value * sign > 0]
        value = sum(column[place] for place in agree)
        divisor = sum(weights[place] for place in agree) if normalize else 1.0
        found.append(value / divisor if divisor else value)
    return found


def close(found: Floats, expected: Sequence[float], tolerance: float = 2e-6) -> bool:
    return bool(np.allclose(found.reshape(-1), expected, rtol=tolerance, atol=tolerance))
