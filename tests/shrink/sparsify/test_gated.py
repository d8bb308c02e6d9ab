import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from shrink.sparsify.runs import drawn, taught
from treadle.shrink.sparsify.heads import LayerSize, fresh_layer, scores_of
from treadle.shrink.sparsify.methods.gated import Gated


@given(st.integers(1, 3), st.integers(1, 2), st.integers(1, 2), st.integers(0, 1000))
def test_reference(tokens: int, kv_heads: int, group: int, seed: int) -> None:
    """The gate in loops: normed projections, sinks that compete, the mean over query heads."""
    size = LayerSize(group * kv_heads, kv_heads, 4, 8)
    design = Gated().design()
    own = fresh_layer(design, size, 0, seed, 0)
    own["bias"], own["norms"] = drawn(seed, size.heads), 1 + 0.1 * drawn(seed + 1, 2, 16)
    x = drawn(seed + 2, tokens, 8)
    found = scores_of(design, own, x)

    def normed(row: int, token: int, which: int) -> list[float]:
        part = [float(own["first"][16 * row + n] @ x[token]) for n in range(16)]
        length = math.sqrt(math.fsum(v * v for v in part) / 16 + 1e-6)
        return [v / length * float(own["norms"][which, n]) for n, v in enumerate(part)]

    for t in range(tokens):
        for h in range(kv_heads):
            key, total = normed(size.heads + h, t, 1), 0.0
            for g in range(group):
                head = h * group + g
                query = normed(head, t, 0)
                z = sum(a * b for a, b in zip(query, key, strict=True)) / 4
                z += float(own["bias"][head])
                sinks = [
                    math.exp(sum(a * float(b) for a, b in zip(query, sink, strict=True)) - z)
                    for sink in own["sinks"][h]
                ]
                total += 1 / (1 + math.fsum(sinks))
            assert float(found[t, h]) == pytest.approx(total / group, rel=1e-3, abs=1e-5)


@given(st.integers(1, 9), st.integers(1, 3), st.integers(0, 1000))
def test_reference_of_the_loss(tokens: int, kv_heads: int, seed: int) -> None:
    scores = torch.sigmoid(drawn(seed, tokens, kv_heads))
    aim = torch.sigmoid(drawn(seed + 1, tokens, kv_heads))
    found = Gated().loss(scores, aim, torch.ones_like(aim, dtype=torch.bool), 7)
    parts = [
        -float(a) * math.log(float(s)) - (1 - float(a)) * math.log(1 - float(s))
        for s, a in zip(scores.flatten(), aim.flatten(), strict=True)
    ]
    assert float(found) == pytest.approx(math.fsum(parts) / len(parts), rel=1e-4)


def test_limits_ranks_stand_for_what_is_no_probability() -> None:
    values = torch.tensor([[3.0], [-7.0], [3.0], [100.0]])
    found = Gated(target="cis").aim(values)[:, 0]
    assert found.tolist() == pytest.approx([1 / 3, 0, 2 / 3, 1])
    assert Gated(target="cis").aim(torch.ones(1, 2)).tolist() == [[0, 0]], "one token"
    assert Gated().aim(torch.tensor([[0.25]])).tolist() == [[0.25]]


def test_limits_scores_of_0_and_1_have_a_finite_loss() -> None:
    scores, aim = torch.tensor([[0.0], [1.0]]), torch.tensor([[1.0], [0.0]])
    assert bool(Gated().loss(scores, aim, aim < 2, 1).isfinite())


def test_meaning_finds_what_follows_from_tokens_and_nothing_in_shuffled_aims() -> None:
    method, truth = Gated(passes=4), drawn(1, 32, 2)
    assert taught(method, truth) > 0.5
    assert taught(method, truth, is_shuffled=True) < 0.4
