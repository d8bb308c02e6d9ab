"""The tree of tokens: what it is after forks, prunes and merges."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from treadle.runtime.decode.actions import Child
from treadle.runtime.decode.tree import NodeState, TokenTree


def children(*starts: int) -> list[Child]:
    return [Child([token]) for token in starts]


def forked(tree: TokenTree, leaf: int, *starts: int) -> list[int]:
    return tree.fork(leaf, children(*starts), [-1.0] * len(starts))


def test_branches_have_their_texts_and_probabilities():
    tree = TokenTree([1, 2, 3])
    left, right = forked(tree, 0, 7, 8)
    tree.append(left, [4], -0.5)
    assert tree.text(left) == [1, 2, 3, 7, 4]
    assert tree.new_tokens(right) == [8]
    assert tree.node(left).logprob == pytest.approx(-1.5)
    tree.append(right, [5, 6], -0.5)
    assert tree.node(right).logprob is None
    assert [node.id for node in tree.leaves()] == [left, right]
    assert tree.node(0).state is NodeState.SHARED
    assert tree.node(0).num_shared == 3


def test_what_is_left_alone_becomes_one_node():
    tree = TokenTree([1, 2])
    first, other = forked(tree, 0, 3, 4)
    tree.append(first, [5], -1)
    low, high = forked(tree, first, 6, 7)
    tree.step = 4
    tree.prune(low)
    assert first not in tree.nodes
    merged = tree.node(high)
    assert (merged.parent, merged.tokens, merged.first) == (0, [3, 5, 7], 2)
    assert (merged.num_shared, merged.branched) == (2, 4)
    assert tree.text(low) == [1, 2, 3, 5, 6]  # the pruned one is not forgotten
    assert tree.node(low).ended == 4
    assert set(tree.node(0).children) == {high, other}
    again = forked(tree, high, 1, 2)
    tree.prune(again[0])
    assert tree.text(again[1]) == [1, 2, 3, 5, 7, 2]
    assert tree.text(low) == [1, 2, 3, 5, 6]


def test_a_node_whose_branches_are_all_pruned_is_pruned():
    tree = TokenTree([1])
    first, other = forked(tree, 0, 3, 4)
    own = forked(tree, first, 5, 6, 7)
    for leaf in own[:2]:
        tree.prune(leaf)
    tree.prune(own[2])
    assert not [n for n in tree.nodes.values() if n.state is NodeState.SHARED and n.id]
    tree.prune(other)
    assert tree.node(0).state is NodeState.PRUNED
    assert tree.leaves() == []


def test_finished_branches_rank_by_score_then_probability():
    tree = TokenTree([1])
    leaves = tree.fork(0, children(2, 3, 4, 5), [-1.0, -3.0, -2.0, -0.1])
    for leaf, score in zip(leaves, (1.0, 2.0, 2.0, None), strict=True):
        tree.finish(leaf, "stop")
        tree.node(leaf).score = score
    assert tree.ranked() == [leaves[2], leaves[1], leaves[0], leaves[3]]
    tree.prune(leaves[1])
    assert len(tree.ranked()) == 3


def test_branches_draw_from_streams_of_their_own():
    trees = [TokenTree([1], seed) for seed in (0, 0, 1)]
    keys = []
    for tree in trees:
        own = forked(tree, 0, 1, 2)
        keys.append([tree.node(n).key for n in own + forked(tree, own[0], 1, 2)])
    assert keys[0] == keys[1]
    assert len(set(keys[0] + keys[2])) == 8


def test_a_long_life_of_forks_leaves_a_short_path():
    tree = TokenTree([1])
    leaf, other = forked(tree, 0, 1, 2)
    for number in range(3000):
        leaf, dead = forked(tree, leaf, number, 7)
        tree.prune(dead)
    assert len(tree.path(leaf)) == 2
    assert len(tree.text(leaf)) == 3002
    assert len(tree.text(dead)) == 3002
    # Without prunes it is as deep as it is, and nothing recurses.
    for number in range(3000):
        leaf, _ = forked(tree, leaf, number, 7)
    assert len(tree.path(leaf)) == 3002
    assert other in [node.id for node in tree.leaves()]


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 4)), max_size=30), st.integers(1, 5))
def test_pages_that_branches_share_count_once(moves, page_size):
    tree = TokenTree([1, 2, 3, 4])
    for place, what in moves:
        leaves = [node.id for node in tree.leaves()]
        leaf = leaves[place % len(leaves)]
        if what == 0 and len(leaves) > 1:
            tree.prune(leaf)
        elif what == 1:
            forked(tree, leaf, 5, 6)
        else:
            tree.append(leaf, [what] * what, -1)
    leaves = [node.id for node in tree.leaves()]
    # A page belongs to who has all of its tokens in common, by descent.
    pages = set()
    for leaf in leaves:
        origin = [n.id for n in tree.path(leaf) for _ in n.tokens]
        for at in range(0, len(origin), page_size):
            part = origin[at : at + page_size]
            is_full = len(part) == page_size
            pages.add((at, part[-1] if is_full else leaf, is_full))
    assert tree.num_pages(leaves, page_size) == len(pages)


def test_draws_without_putting_back_follow_the_probabilities():
    from treadle.runtime.decode.chance import draw, draw_distinct

    logits = np.asarray([2.0, 1.0, 0.0, -1.0, -20.0], np.float32)
    chances = np.exp(logits) / np.exp(logits).sum()
    count = 4000
    first = [draw_distinct(logits, key, 9, 2, 1.0) for key in range(count)]
    single = [draw(logits, key, 9, 1.0) for key in range(count)]
    for found in ([a for a, _ in first], single):
        seen = np.bincount(found, minlength=5)
        expected = chances * count
        chi = ((seen - expected)[:4] ** 2 / expected[:4]).sum()
        assert chi < 16.3  # 0.1 % of chi-square with 3 degrees of freedom
    assert all(a != b for a, b in first)
    pair = sum(a == 0 and b == 1 for a, b in first) / count
    assert pair == pytest.approx(chances[0] * chances[1] / (1 - chances[0]), abs=0.03)


@pytest.mark.parametrize("top_p", [0.5, 0.8, 1.0])
def test_top_p_leaves_out_the_improbable(top_p):
    from treadle.runtime.decode.chance import draw, draw_distinct

    logits = np.log(np.asarray([0.1, 0.6, 0.25, 0.05], np.float32))
    allowed = {0.5: {1}, 0.8: {1, 2}, 1.0: {0, 1, 2, 3}}[top_p]
    assert {draw(logits, key, 3, 1.0, top_p) for key in range(300)} == allowed
    assert set(draw_distinct(logits, 5, 3, 9, 1.0, top_p)) == allowed
    assert draw(logits, 5, 3, 0) == 1
    assert draw_distinct(np.zeros(4, np.float32), 5, 3, 2, 0) == [0, 1]
