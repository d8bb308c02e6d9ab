"""Token recycling: its table, its tree, its groups; the best of many logits."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from runtime.draft.texts import VOCAB, ask, opened
from treadle.runtime.draft.best import best_tokens
from treadle.runtime.draft.methods.recycling import _tree


def logits_of(*orders: list[int]) -> np.ndarray:
    found = np.zeros((len(orders), VOCAB), np.float32)
    for row, order in zip(found, orders, strict=True):
        row[order] = np.arange(len(order), 0, -1)
    return found


@given(st.integers(1, 700), st.integers(1, 4), st.integers(0, 100))
def test_the_best_are_those_of_a_sort(vocab, rows, seed):
    generator = np.random.default_rng(seed)
    logits = generator.permuted(np.tile(np.arange(vocab, dtype=np.float32), (rows, 1)), axis=1)
    expected = np.argsort(-logits, axis=1)[:, : min(8, vocab)]
    np.testing.assert_array_equal(best_tokens(logits, 8), expected)


def test_the_latest_logits_of_a_token_make_its_branch():
    drafting = opened("recycling", nodes=4)
    assert ask(drafting, [1]).tokens == []
    first, second = list(range(10, 18)), list(range(20, 28))
    drafting.learn("", np.array([1, 10, 1]), logits_of(second, second, first))
    draft = ask(drafting, [5, 1], most=3)
    assert draft.tokens[0] == 10
    assert set(zip(draft.parents, draft.tokens, strict=True)) <= {
        *((-1, token) for token in first),
        *((0, token) for token in second),
    }
    assert len(draft.tokens) == 3


def test_nothing_crosses_groups():
    drafting = opened("recycling")
    drafting.learn("secret", np.array([1]), logits_of(list(range(10, 18))))
    assert ask(drafting, [1], group="other").tokens == []
    assert ask(drafting, [1], group="secret").tokens[0] == 10


def test_the_tree_has_about_the_widths_of_the_paper():
    depths: list[int] = []
    for parent, _ in _tree(80):
        depths.append(1 if parent < 0 else depths[parent] + 1)
    widths = [depths.count(depth) for depth in range(1, 7)]
    paper = [8, 21, 25, 15, 8, 3]
    assert sum(abs(a - b) for a, b in zip(widths, paper, strict=True)) <= 20
    assert max(depths) <= 8
