"""The targets in loops: what later queries give to the entries of a prompt."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from shrink.sparsify.runs import layer_of
from treadle.runtime.probe import LayerInputs
from treadle.shrink.sparsify.overlap import overlap
from treadle.shrink.sparsify.targets import NUM_SINKS, causal_importance, repeated_attention

GROUPS = st.integers(1, 3)
KV_HEADS = st.integers(1, 2)
WINDOWS = st.none() | st.integers(1, 12)
SEEDS = st.integers(0, 1000)
SOFTCAPS = st.sampled_from([0.0, 2.0])


def logit(layer: LayerInputs, row: int, head: int, place: int, kv: int, softcap: float) -> float:
    found = float(layer.turned_queries[row, head].astype(float) @ layer.turned_keys[place, kv])
    found *= layer.scale
    return softcap * math.tanh(found / softcap) if softcap else found


def sees(row: int, place: int, window: int | None) -> bool:
    return place <= row and (window is None or row - place < window)


@given(GROUPS, KV_HEADS, st.integers(1, 6), st.integers(1, 4), WINDOWS, SOFTCAPS, SEEDS)
def test_causal_importance(
    group: int, kv: int, prompt: int, answer: int, window: int | None, softcap: float, seed: int
) -> None:
    layer = layer_of(prompt + answer, group * kv, kv, 4, seed)
    found = causal_importance(layer, prompt, window, softcap)
    assert found.shape == (prompt, kv)
    for place in range(prompt):
        for head in range(kv):
            largest = max(
                (
                    logit(layer, row, head * group + g, place, head, softcap)
                    for row in range(prompt, prompt + answer)
                    for g in range(group)
                    if sees(row, place, window)
                ),
                default=-math.inf,
            )
            assert float(found[place, head]) == pytest.approx(largest, rel=1e-4, abs=1e-5)


@given(GROUPS, KV_HEADS, st.integers(0, 6), st.integers(1, 5), WINDOWS, SOFTCAPS, SEEDS)
@pytest.mark.parametrize("is_plus", [False, True])
def test_repeated_attention(
    is_plus: bool,
    group: int,
    kv: int,
    before: int,
    size: int,
    window: int | None,
    softcap: float,
    seed: int,
) -> None:
    first, repeated = before + size + 1, 3
    layer = layer_of(first + repeated, group * kv, kv, 4, seed)
    draw = np.random.default_rng(seed)
    output = draw.normal(size=(5, group * kv * 4)).astype(np.float32)
    states = draw.normal(size=(first + repeated, 5)).astype(np.float32)
    beside = (torch.from_numpy(output), states) if is_plus else ()
    chunk = range(before, before + size)
    found = repeated_attention(layer, chunk, first, window, softcap, *beside)
    assert found.shape == (size, kv)
    for number, place in enumerate(chunk):
        for head in range(kv):
            largest = -math.inf
            for row in range(first, first + repeated):
                for g in range(head * group, (head + 1) * group):
                    keys = [*range(min(NUM_SINKS, before)), *chunk, *range(first, row + 1)]
                    seen = [key for key in keys if sees(row, key, window)]
                    if place not in seen:
                        continue
                    powers = {k: math.exp(logit(layer, row, g, k, head, softcap)) for k in seen}
                    given_ = powers[place] / math.fsum(powers.values())
                    if is_plus:
                        moved = output[:, g * 4 : (g + 1) * 4] @ layer.values[place, head]
                        given_ *= np.linalg.norm(moved) / np.linalg.norm(states[row])
                    largest = max(largest, given_)
            assert float(found[number, head]) == pytest.approx(largest, rel=1e-3, abs=1e-6)


def test_limits_an_entry_that_no_query_sees_has_no_target() -> None:
    layer = layer_of(10, 2, 1, 4)
    for found in (causal_importance(layer, 7, 3), repeated_attention(layer, range(7), 7, 3)):
        assert found[:, 0].isfinite().tolist() == [False] * 5 + [True] * 2


def test_meaning_the_entry_that_the_answer_looks_at_is_worth_most() -> None:
    layer = layer_of(12, 2, 1, 4)
    layer.turned_keys[3] = 5 * layer.turned_queries[10, :1]
    assert int(causal_importance(layer, 9, None)[:, 0].argmax()) == 3
    assert int(repeated_attention(layer, range(9), 9, None)[:, 0].argmax()) == 3


@given(st.integers(1, 20), st.sampled_from([0.1, 0.125, 0.5, 1.0]), SEEDS)
def test_overlap_in_loops(size: int, fraction: float, seed: int) -> None:
    draw = np.random.default_rng(seed)
    score, target = (draw.permutation(size)[None].astype(np.float32) for _ in range(2))
    count = math.ceil(size * fraction)
    best = [set(sorted(range(size), key=lambda n: -part[0, n])[:count]) for part in (score, target)]
    assert float(overlap(score, target, fraction)[0]) == pytest.approx(
        len(best[0] & best[1]) / count
    )
    assert float(overlap(target, target, fraction)[0]) == 1.0
