"""cheap_embed: the sum of the prompts' embeddings at length 1, the same way apart."""

import numpy as np
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
from treadle.combine.merge.mixture.methods.cheap_embed import CheapEmbedding
from treadle.combine.merge.mixture.methods.random import RandomGate


def unit_sum(texts) -> np.ndarray:
    total = sum(token.astype(np.float64) for text in texts for token in text)
    return total / (sum(value * value for value in total) ** 0.5 or 1.0)


@given(SEEDS, EXPERTS, WIDTHS, st.booleans(), st.sampled_from(["others", "none"]))
def test_rows_are_sums_of_words_apart(seed, num_experts, hidden, has_own, negatives) -> None:
    texts = drawn_texts(seed, num_experts, hidden, has_own)
    found = CheapEmbedding(negatives=negatives).gate(prompted(texts)).rows
    for place, own in enumerate(texts):
        others = [t for n, one in enumerate(texts) if n != place for t in one.positive]
        against = own.negative or (others if negatives == "others" else [])
        row = unit_sum(own.positive) - (unit_sum(against) if against else 0.0)
        length = sum(value * value for value in row) ** 0.5
        if length > 1e-4:  # else rounding decides
            np.testing.assert_allclose(found[place], row / length, rtol=1e-3, atol=1e-4)


def test_one_word_is_its_own_direction() -> None:
    word = np.array([[0.0, 5.0]], np.float32)
    shown = prompted([PromptStates([word])])
    np.testing.assert_allclose(CheapEmbedding().gate(shown).rows, [[0.0, 1.0]])


def test_words_of_the_prompts_go_to_their_expert() -> None:
    _, points = clusters(2, 4, 16, 0.5)
    shown = prompted([PromptStates([group[:8]]) for group in points])
    right = share_right(CheapEmbedding().gate(shown).rows, points[:, 8:])
    assert right > 0.95 > 0.6 > share_right(RandomGate().gate(shown).rows, points[:, 8:])
