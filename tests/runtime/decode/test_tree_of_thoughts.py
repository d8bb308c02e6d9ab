"""Tree of thoughts: breadth first, the best of each level go on."""

import numpy as np
import pytest

from runtime.decode.toy import PROMPT, answers, searched, text_of
from treadle.core.errors import SettingsError
from treadle.runtime.decode.methods.best_of import BestOf
from treadle.runtime.decode.methods.tree_of_thoughts import TreeOfThoughts
from treadle.runtime.decode.tables import CONTROLLERS
from treadle.runtime.decode.tree import NodeState


def low(candidates) -> list[float]:
    return [float(sum(token < 30 for token in one.tokens)) for one in candidates]


class Levels:
    """A scorer that remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[list[tuple[int, ...]]] = []

    def __call__(self, candidates) -> list[float]:
        self.asked.append([one.tokens for one in candidates])
        return low(candidates)


def test_each_level_keeps_the_best_and_goes_on_with_them():
    worth = Levels()
    method = TreeOfThoughts(depth=3, thoughts=4, width=2, thought_tokens=3, stop=())
    found = searched(method, 30, worth=worth)
    first, second, third = worth.asked[:3]
    assert [len(one) for one in (first, second, third)] == [4, 8, 8]
    assert {len(tokens) for tokens in third} == {9}
    for before, after in ((first, second), (second, third)):
        own = len(before[0])
        parents = {tokens[:own] for tokens in after}
        ranked = sorted(before, key=lambda t: -sum(x < 30 for x in t))
        least = sum(x < 30 for x in ranked[1])
        assert len(parents) == 2
        assert all(sum(x < 30 for x in parent) >= least for parent in parents)
        starts = [(tokens[:own], tokens[own]) for tokens in after]
        assert len(set(starts)) == len(starts)  # no two thoughts of a branch begin alike
    assert len(found.ranked) == 2
    assert answers(found)[0] == list(max(third, key=lambda t: sum(x < 30 for x in t)))
    assert sum(n.state is NodeState.PRUNED for n in found.tree.nodes.values()) >= 2 + 6 + 6


def test_a_thought_ends_with_its_string():
    worth = Levels()
    searched(TreeOfThoughts(depth=2, thoughts=3, width=3, stop=(".",)), 200, worth=worth)
    first = worth.asked[0]
    assert all(text_of(tokens).count(".") == 1 and tokens[-1] % 7 == 0 for tokens in first)
    assert len({len(tokens) for tokens in first}) > 1  # they waited for each other


def test_it_finds_better_answers_than_as_many_by_chance():
    gains = []
    for seed in range(6):
        method = TreeOfThoughts(
            depth=4, thoughts=4, width=3, thought_tokens=2, stop=(), temperature=1
        )
        tree = searched(method, 20, seed=seed, worth=low)
        chance = searched(BestOf(n=12), 8, seed=seed, worth=low)
        best = [found.tree.node(found.ranked[0]).score for found in (tree, chance)]
        gains.append(best[0] - best[1])
    assert np.mean(gains) > 0.5


def test_the_model_is_asked_and_its_words_are_weighed():
    asked = []

    def chance_of(question, answers):
        asked.append(question)
        own = 0.9 if question.endswith("a?") else 0.2
        return [own, 1 - own]

    method = TreeOfThoughts(
        depth=1,
        thoughts=3,
        width=3,
        thought_tokens=2,
        stop=(),
        ask="Is {text}?",
        words={"yes": 10, "no": 1},
    )
    found = searched(method, 9, chance_of=chance_of)
    for number, tokens in zip(found.ranked, answers(found), strict=True):
        text = text_of(tokens)
        assert f"Is {text}?" in asked
        own = 0.9 if text.endswith("a") else 0.2
        assert found.tree.node(number).score == pytest.approx(10 * own + 1 - own)


def test_what_ends_within_a_thought_is_an_answer():
    ends = frozenset(range(0, 97, 3))
    found = searched(TreeOfThoughts(thoughts=6, thought_tokens=4, stop=()), 20, ends=ends)
    assert any(tokens[-1] in ends for tokens in answers(found))
    assert all(found.tree.node(n).score is not None for n in found.ranked)


def test_one_thought_of_one_token():
    method = TreeOfThoughts(depth=1, thoughts=1, width=1, thought_tokens=1, stop=())
    found = searched(method, 5)
    assert [len(tokens) for tokens in answers(found)] == [1]
    assert found.tree.text(0) == PROMPT


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"width": 0}, "width"),
        ({"thoughts": 0}, "thoughts"),
        ({"ask": "good?"}, r"ask has no \{text\} in it; say where"),
        ({"words": {}}, r"words has none, or an empty one; give the possible answers"),
    ],
)
def test_settings_that_make_no_sense(given, message):
    with pytest.raises(SettingsError, match=message):
        CONTROLLERS.resolve({"method": "tree_of_thoughts", **given})
