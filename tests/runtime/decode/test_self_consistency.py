"""Self-consistency: what most texts come to."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.decode.toy import answers, logprob_of, searched, text_of
from treadle.core.errors import SettingsError
from treadle.runtime.decode.methods.self_consistency import SelfConsistency
from treadle.runtime.decode.tables import CONTROLLERS


def parity(text: str) -> str | None:
    """A made-up answer: whether the text's letters are even, and none where it begins with a."""
    return None if text[0] == "a" else str(sum(map(ord, text)) % 2)


@settings(max_examples=15)
@given(seed=st.integers(0, 999), n=st.integers(1, 9))
def test_the_most_frequent_answer_wins(seed, n):
    found = searched(SelfConsistency(n=n, temperature=1.5), 4, seed=seed, extract=parity)
    texts = answers(found)
    votes = [parity(text_of(tokens)) for tokens in texts]
    counts = Counter(vote for vote in votes if vote is not None)
    assert len(texts) == n
    if counts:
        assert counts[votes[0]] == max(counts.values())
        alike = [t for t, vote in zip(texts, votes, strict=True) if vote == votes[0]]
        assert logprob_of(texts[0]) == pytest.approx(max(map(logprob_of, alike)))
    for number, vote in zip(found.ranked, votes, strict=True):
        expected = 0 if vote is None else counts[vote] / n
        assert found.tree.node(number).score == pytest.approx(expected)


def test_it_beats_a_single_draw_where_right_answers_agree():
    """Right texts say r, wrong ones say one of many things."""

    def says(text: str) -> str:
        return "r" if ord(text[0]) % 5 < 2 else text

    right = single = 0
    for seed in range(20):
        found = searched(SelfConsistency(n=9, temperature=2.0), 2, seed=seed, extract=says)
        texts = [text_of(tokens) for tokens in answers(found)]
        right += says(texts[0]) == "r"
        single += sum(says(text) == "r" for text in texts) / len(texts)
    assert right >= 18
    assert single < 15


@pytest.mark.parametrize(
    ("pattern", "text", "answer"),
    [
        (None, "so 3 and -4, in all 1,250.5 of them", "1,250.5"),
        (None, "nothing", None),
        (r"answer: (\w+)", "answer: no ... answer: yes", "yes"),
        (r"\w+$", "the end", "end"),
    ],
)
def test_what_a_text_comes_to(pattern, text, answer):
    given = {} if pattern is None else {"pattern": pattern}
    assert SelfConsistency(**given).found_in(text) == answer


def test_a_broken_pattern_is_named():
    with pytest.raises(SettingsError, match=r"pattern.*expected a regular expression"):
        CONTROLLERS.resolve({"method": "self_consistency", "pattern": "(x"})
