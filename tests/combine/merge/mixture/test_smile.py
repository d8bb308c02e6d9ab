"""smile: the linear form nearest to the energies of inputs in what the experts changed."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from combine.merge.mixture.mlps import EXPERTS, SEEDS, changed, clusters, share_right
from treadle.combine.merge.mixture.methods.random import RandomGate
from treadle.combine.merge.mixture.methods.smile import Smile, energies

DAMP = 0.05


def drawn(seed: int, num_experts: int, tokens: int, hidden: int):
    draw = np.random.default_rng(seed)
    inputs = (draw.standard_normal((tokens, hidden)) + 0.5).astype(np.float32)
    changes = [
        [draw.standard_normal((7, hidden)).astype(np.float32) for _ in range(2)]
        for _ in range(num_experts)
    ]
    return inputs, changes


def naive_energies(inputs, changes, rank: int) -> np.ndarray:
    """The norm of each input's part in the leading right singular directions, token by token."""
    found = np.zeros((len(inputs), len(changes)))
    for expert, matrices in enumerate(changes):
        for matrix in matrices:
            directions = np.linalg.svd(matrix.astype(np.float64))[2][: min(rank, *matrix.shape)]
            for token, entered in enumerate(inputs.astype(np.float64)):
                found[token, expert] += sum(float(v @ entered) ** 2 for v in directions) ** 0.5
    return found


@given(SEEDS, EXPERTS, st.integers(2, 12), st.integers(2, 8), st.integers(1, 9))
def test_rows_are_the_ridge_regression_of_the_energies(
    seed, num_experts, tokens, hidden, rank
) -> None:
    inputs, changes = drawn(seed, num_experts, tokens, hidden)
    shown = changed(inputs, changes)
    wanted = naive_energies(inputs, changes, rank)
    np.testing.assert_allclose(energies(shown, rank), wanted, rtol=1e-3, atol=1e-3)
    wanted -= wanted.mean(axis=1, keepdims=True)
    doubles = inputs.astype(np.float64)
    ridge = DAMP * np.square(doubles).sum() / hidden
    rows = [
        np.linalg.inv(doubles.T @ doubles + ridge * np.eye(hidden)) @ doubles.T @ wanted[:, expert]
        for expert in range(num_experts)
    ]
    found = Smile(rank=rank, damp_fraction=DAMP).gate(shown).rows
    np.testing.assert_allclose(found, rows, rtol=1e-2, atol=2e-3)


def test_experts_that_changed_nothing_or_the_same_are_not_told_apart() -> None:
    inputs, changes = drawn(0, 1, 9, 6)
    opposite = [[-one for one in changes[0]]]
    for alike in ([[np.zeros((7, 6), np.float32)]] * 2, changes * 3, changes + opposite):
        gate = Smile().gate(changed(inputs, alike))
        assert not gate.rows.any()
        assert gate.agreement is None


def test_tokens_go_where_the_change_answers_them() -> None:
    """Each expert changed what inputs of its group excite, and nothing else."""
    middles, points = clusters(3, 4, 16, 0.3)
    draw = np.random.default_rng(0)
    changes = [
        [np.outer(draw.standard_normal(12), middle).astype(np.float32)] for middle in middles
    ]
    shown = changed(points.reshape(-1, 16), changes)
    gate = Smile(rank=2).gate(shown)
    right, by_chance = (share_right(r.rows, points) for r in (gate, RandomGate().gate(shown)))
    assert right > 0.9 > 0.6 > by_chance
    assert gate.agreement is not None
    assert gate.agreement > 0.9
