"""hidden: the mean over prompts, minus that of what an expert is not for, at length 1."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from combine.merge.mixture.mlps import (
    EXPERTS,
    SEEDS,
    WIDTHS,
    clusters,
    drawn_texts,
    prompted,
    share_right,
)
from treadle.combine.merge.mixture.base import PromptStates
from treadle.combine.merge.mixture.methods.hidden import HiddenState
from treadle.combine.merge.mixture.methods.random import RandomGate


def mean_of(texts, hidden: int, position: str) -> list[float]:
    """The mean over texts, in loops."""
    total = [0.0] * hidden
    for text in texts:
        tokens = [text[-1]] if position == "last" else list(text)
        for channel in range(hidden):
            total[channel] += sum(float(t[channel]) for t in tokens) / len(tokens) / len(texts)
    return total


@given(
    SEEDS,
    EXPERTS,
    WIDTHS,
    st.booleans(),
    st.sampled_from(["mean", "last"]),
    st.sampled_from(["others", "none"]),
)
def test_rows_are_the_means_apart(seed, num_experts, hidden, has_own, position, negatives) -> None:
    texts = drawn_texts(seed, num_experts, hidden, has_own)
    router = HiddenState(position=position, negatives=negatives)
    found = router.gate(prompted(texts)).rows
    for place, own in enumerate(texts):
        row = mean_of(own.positive, hidden, position)
        others = [t for n, one in enumerate(texts) if n != place for t in one.positive]
        against = own.negative or (others if negatives == "others" else [])
        if against:
            row = [a - b for a, b in zip(row, mean_of(against, hidden, position), strict=True)]
        length = sum(value * value for value in row) ** 0.5 or 1.0
        np.testing.assert_allclose(found[place], np.array(row) / length, rtol=1e-4, atol=1e-5)


def test_one_token_of_one_expert_is_its_own_direction() -> None:
    state = np.array([[3.0, 4.0]], np.float32)
    found = HiddenState().gate(prompted([PromptStates([state])])).rows
    np.testing.assert_allclose(found, [[0.6, 0.8]], rtol=1e-6)


def test_prompts_that_are_the_same_tell_nothing_apart() -> None:
    state = np.ones((2, 3), np.float32)
    found = HiddenState().gate(prompted([PromptStates([state])] * 2)).rows
    assert not found.any()


@pytest.mark.parametrize("seed", range(3))
def test_tokens_like_the_prompts_go_to_their_expert(seed) -> None:
    middles, points = clusters(seed, 4, 16, 0.5)
    shown = prompted([PromptStates([group[:5], group[5:8]]) for group in points], seed)
    right = share_right(HiddenState().gate(shown).rows, points[:, 8:])
    by_chance = share_right(RandomGate().gate(shown).rows, points[:, 8:])
    assert right > 0.95 > 0.6 > by_chance
    assert middles.shape == (4, 16)
