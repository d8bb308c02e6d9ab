import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from shrink.sparsify.runs import drawn, taught
from treadle.shrink.sparsify.heads import LayerSize, fresh_layer, scores_of
from treadle.shrink.sparsify.learners import LayerLesson, learner_for
from treadle.shrink.sparsify.methods.locret import Locret


@given(st.integers(1, 9), st.integers(1, 3), st.integers(1, 4), st.integers(0, 1000))
def test_reference(tokens: int, kv_heads: int, layers: int, seed: int) -> None:
    """The loss of section 3.2 in loops: SmoothL1 over seen entries, and neighbours kept close."""
    scores, aim = 3 * drawn(seed, tokens, kv_heads), drawn(seed + 1, tokens, kv_heads)
    is_seen = drawn(seed + 2, tokens, kv_heads) > -1
    is_seen[0] = True
    parts, apart = [], []
    for t in range(tokens):
        for h in range(kv_heads):
            gap = abs(float(scores[t, h]) - float(aim[t, h]))
            if is_seen[t, h]:
                parts.append(0.5 * gap * gap if gap < 1 else gap - 0.5)
            if t + 1 < tokens:
                apart.append((float(scores[t, h]) - float(scores[t + 1, h])) ** 2)
    expected = math.fsum(parts) / len(parts) / layers
    expected += 0.0025 * math.fsum(apart) / len(apart) if apart else 0.0
    found = Locret().loss(scores, aim, is_seen, layers)
    assert float(found) == pytest.approx(expected, rel=1e-4)


@given(st.integers(1, 5), st.integers(1, 2), st.integers(0, 1000))
def test_reference_of_the_heads(tokens: int, kv_heads: int, seed: int) -> None:
    size = LayerSize(2 * kv_heads, kv_heads, 4, 8 * kv_heads)
    design = Locret().design()
    own, x = fresh_layer(design, size, 3, seed, 0), drawn(seed, tokens, size.num_inputs(design))
    found = scores_of(design, own, x)
    for t in range(tokens):
        for h in range(kv_heads):
            total = 0.0
            for w in range(3):
                products = zip(own["first"][w].tolist(), x[t].tolist(), strict=True)
                inner = math.fsum(a * b for a, b in products)
                total += float(own["second"][h, w]) * inner / (1 + math.exp(-inner))
            assert float(found[t, h]) == pytest.approx(total, rel=1e-4, abs=1e-5)


def test_limits_the_rate_rises_for_two_thirds_and_falls_to_almost_nothing() -> None:
    method, size = Locret(), LayerSize(1, 1, 2, 2)
    learner = learner_for(method, method.design(), [size], 2, 0)
    rates = []
    for number in range(30):
        x = drawn(number, 4, 6)
        learner.learn([LayerLesson(x, x[:, :1], x[:, :1] < 9)], number / 30, 1 / 30)
        rates.append(learner._optimizer.param_groups[0]["lr"])
    assert rates[:20] == sorted(rates[:20])
    assert rates[19] == pytest.approx(5e-4)
    assert rates[20:] == sorted(rates[20:], reverse=True)
    assert 0 < rates[-1] < 1e-4


def test_limits_a_layer_in_which_nothing_is_seen_learns_nothing() -> None:
    method, size = Locret(), LayerSize(2, 1, 4, 8)
    learner = learner_for(method, method.design(), [size], 4, 0)
    before = {name: part.clone() for name, part in learner.layers()[0].items()}
    x, nothing = drawn(0, 6, 16), torch.zeros(6, 1, dtype=torch.bool)
    assert learner.learn([LayerLesson(x, x[:, :1], nothing)], 0.0, 1.0) == 0.0
    for name, part in learner.layers()[0].items():
        assert torch.equal(part, before[name])


def test_meaning_finds_what_follows_from_tokens_and_nothing_in_shuffled_aims() -> None:
    method = Locret(learning_rate=5e-3, passes=4)
    truth = drawn(1, 64, 2)
    mine, shuffled = taught(method, truth), taught(method, truth, is_shuffled=True)
    assert mine > 0.6
    assert shuffled < 0.35
