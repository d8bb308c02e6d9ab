import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from shrink.sparsify.runs import drawn, taught
from treadle.core.errors import CapacityError
from treadle.shrink.sparsify import learners
from treadle.shrink.sparsify.heads import LayerSize, scores_of
from treadle.shrink.sparsify.learners import LayerLesson, learner_for
from treadle.shrink.sparsify.methods.kvzap import KVzap


@given(st.integers(1, 9), st.integers(1, 3), st.integers(0, 1000))
def test_reference(tokens: int, kv_heads: int, seed: int) -> None:
    """Squared error of logarithms, in loops."""
    scores = drawn(seed, tokens, kv_heads)
    target = torch.sigmoid(4 * drawn(seed + 1, tokens, kv_heads))
    is_seen = drawn(seed + 2, tokens, kv_heads) > -1
    is_seen[0] = True
    method = KVzap()
    found = method.loss(scores, method.aim(target), is_seen, 3)
    parts = [
        (float(scores[t, h]) - math.log(float(target[t, h]))) ** 2
        for t in range(tokens)
        for h in range(kv_heads)
        if is_seen[t, h]
    ]
    assert float(found) == pytest.approx(math.fsum(parts) / len(parts) / 3, rel=1e-4)


@given(st.integers(1, 40), st.integers(1, 3), st.integers(0, 1000))
def test_reference_of_the_closed_form(tokens: int, kv_heads: int, seed: int) -> None:
    """The sums over samples give the regression over all rows, which numpy solves at once."""
    method, size = KVzap(), LayerSize(2, kv_heads, 3, 6)
    learner = learner_for(method, method.design(), [size], 0, 0)
    rows, aims = [], []
    for number in range(3):
        x, aim = drawn(seed + number, tokens, 6), drawn(seed + number + 50, tokens, kv_heads)
        is_seen = torch.ones(tokens, kv_heads, dtype=torch.bool)
        is_seen[0, 0] = number == 0
        learner.learn([LayerLesson(x, aim, is_seen)], 0.0, 1.0)
        first = 0 if number == 0 else 1
        rows.append(x[first:].double().numpy())
        aims.append(aim[first:].double().numpy())
    x, y = np.concatenate(rows), np.concatenate(aims)
    damping = 1e-3 * np.square(x).sum(axis=0).mean()
    # The constant is not drawn to 0: ridge on centred inputs.
    centred = x - x.mean(axis=0)
    gram = centred.T @ centred + damping * np.eye(6)
    weights = np.linalg.solve(gram, centred.T @ (y - y.mean(axis=0)))
    own = learner.layers()[0]
    np.testing.assert_allclose(own["first"].numpy().T, weights, rtol=1e-3, atol=1e-4)
    constant = y.mean(axis=0) - x.mean(axis=0) @ weights
    np.testing.assert_allclose(own["first_bias"].numpy(), constant, rtol=1e-3, atol=1e-4)


def test_limits_nothing_seen_gives_zeros_and_a_probability_of_0_a_finite_aim() -> None:
    method = KVzap()
    learner = learner_for(method, method.design(), [LayerSize(2, 1, 3, 6)], 0, 0)
    x, nothing = drawn(0, 4, 6), torch.zeros(4, 1, dtype=torch.bool)
    learner.learn([LayerLesson(x, x[:, :1], nothing)], 0.0, 1.0)
    assert float(scores_of(method.design(), learner.layers()[0], x).abs().max()) == 0
    assert bool(method.aim(torch.zeros(2, 1)).isfinite().all())
    logits = drawn(0, 3, 2)
    assert torch.equal(KVzap(target="cis").aim(logits), logits), "logits are logarithms already"


def test_limits_sums_that_do_not_fit_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learners, "available_memory_bytes", lambda: 1000)
    method = KVzap()
    with pytest.raises(CapacityError, match="choose --form mlp"):
        learner_for(method, method.design(), [LayerSize(4, 2, 16, 64)], 0, 0)


@pytest.mark.parametrize("form", ["linear", "mlp"])
def test_meaning_finds_what_follows_from_tokens_and_nothing_in_shuffled_aims(form: str) -> None:
    method, truth = KVzap(form=form), drawn(1, 32, 2)
    assert taught(method, truth) > 0.7
    assert taught(method, truth, is_shuffled=True) < 0.4
