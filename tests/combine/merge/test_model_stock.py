import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from combine.merge.sites import PAIRS, RUNS, SEEDS, SHAPES, MemorySite, close, merged, normal, tuned
from treadle.combine.merge.methods.linear import Linear
from treadle.combine.merge.methods.model_stock import ModelStock


def stock(start: list[float], vectors: list[list[float]]) -> list[float]:
    count = len(vectors)
    cosines = []
    for i in range(count):
        for j in range(i + 1, count):
            dot = math.fsum(x * y for x, y in zip(vectors[i], vectors[j], strict=True))
            lengths = [math.sqrt(math.fsum(x * x for x in vectors[k])) for k in (i, j)]
            cosines.append(min(1.0, max(-1.0, dot / max(lengths[0] * lengths[1], 1e-6))))
    cosine = sum(cosines) / len(cosines)
    below = 1 + (count - 1) * cosine
    t = 0.0 if abs(below) < 1e-6 else count * cosine / below
    means = [sum(column) / count for column in zip(*vectors, strict=True)]
    return [base + t * mean for base, mean in zip(start, means, strict=True)]


@given(SHAPES, PAIRS, SEEDS, RUNS, st.booleans())
def test_reference(shape, count, seed, run, filter_wise) -> None:
    base = normal(*shape, seed=seed)
    # Changes with a part in common: t grows without bounds towards opposite ones.
    shared = np.abs(normal(*shape, seed=seed + 1))
    models = [base + shared + 0.3 * np.abs(normal(*shape, seed=seed + 2 + n)) for n in range(count)]
    width = (shape[-1] if shape else 1) if filter_wise else base.size
    starts = base.reshape(-1, width).tolist()
    rows = [(model - base).reshape(-1, width).tolist() for model in models]
    expected = []
    for place, start in enumerate(starts):
        expected += stock(start, [row[place] for row in rows])
    found = merged(ModelStock(filter_wise=filter_wise), MemorySite(models, base, run))
    assert close(found, expected, tolerance=1e-5)


def test_limits_nothing_changed_gives_the_base() -> None:
    base = normal(4, 5, seed=0)
    assert np.array_equal(merged(ModelStock(), MemorySite([base] * 3, base)), base)


def test_limits_equal_models_are_taken_whole() -> None:
    models, base = tuned((4, 5), 1, seed=0)
    assert np.allclose(merged(ModelStock(), MemorySite(models * 3, base)), models[0], atol=1e-6)


def test_limits_opposite_models_give_the_base() -> None:
    base = normal(4, 5, seed=0)
    change = np.float32(0.5) * np.sign(normal(4, 5, seed=1))
    zero = np.zeros_like(base)
    found = merged(ModelStock(), MemorySite([zero + change, zero - change], zero))
    assert not found.any()
    assert np.isfinite(merged(ModelStock(), MemorySite([base, zero], base))).all()


def test_meaning_it_lands_nearer_the_centre_than_the_mean_of_few_models() -> None:
    base, centre = normal(40, 40, seed=0), normal(40, 40, seed=1)
    centre = base + 0.5 * centre
    models = [centre + 1.0 * normal(40, 40, seed=seed) for seed in (2, 3)]
    found = merged(ModelStock(), MemorySite(models, base))
    mean = merged(Linear(), MemorySite(models))
    assert np.linalg.norm(found - centre) < 0.8 * np.linalg.norm(mean - centre)
