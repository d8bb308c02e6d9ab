"""random: rows of length 1, by the seed alone, and even over experts."""

import numpy as np
from hypothesis import given

from combine.merge.mixture.mlps import EXPERTS, SEEDS, WIDTHS, mlp
from treadle.combine.merge.mixture.methods.random import RandomGate


def rows(seed: int, num_experts: int, hidden: int) -> np.ndarray:
    return RandomGate().gate(mlp(num_experts, hidden, seed)).rows


@given(SEEDS, EXPERTS, WIDTHS)
def test_rows_are_drawn_directions(seed, num_experts, hidden) -> None:
    drawn = np.random.default_rng(seed).standard_normal((num_experts, hidden), dtype=np.float32)
    for row, expected in zip(rows(seed, num_experts, hidden), drawn, strict=True):
        length = sum(float(value) ** 2 for value in expected) ** 0.5
        np.testing.assert_allclose(row, expected / length, rtol=1e-5)


def test_tokens_go_evenly_over_gates() -> None:
    inputs = np.random.default_rng(0).standard_normal((50, 16)).astype(np.float32)
    counts = np.zeros(4)
    for seed in range(60):
        counts += np.bincount(np.argmax(inputs @ rows(seed, 4, 16).T, axis=1), minlength=4)
    assert counts.min() > 0.2 * counts.sum()
