"""The n-gram drafter against a dictionary of all n-grams; its groups, its bounds."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.draft.texts import ask, finish, opened
from treadle.core.errors import SettingsError
from treadle.runtime.draft.tables import DRAFTERS


def naive(texts: list[list[int]], longest: int, shortest: int, most: int) -> list[int]:
    """What the last of `texts` goes on with by the latest of the longest n-grams."""
    known = {}
    for text in texts:
        for at in range(1, len(text)):
            for order in range(shortest, longest + 1):
                if order <= at:
                    known[tuple(text[at - order : at])] = text[at]
    found, text = [], list(texts[-1])
    while len(found) < most:
        ends = [tuple(text[-n:]) for n in range(longest, shortest - 1, -1) if n <= len(text)]
        token = next((known[end] for end in ends if end in known), None)
        if token is None:
            break
        found.append(token)
        text.append(token)
    return found


@given(
    st.lists(st.lists(st.integers(0, 5), min_size=1, max_size=20), min_size=1, max_size=3),
    st.integers(1, 3),
    st.integers(0, 2),
)
def test_drafts_are_those_of_a_dictionary(texts, shortest, more):
    drafting = opened("ngram", shortest=shortest, longest=shortest + more, slots=2**20)
    for number, text in enumerate(texts[:-1]):
        finish(drafting, text, str(number))
    draft = ask(drafting, texts[-1][:-1] or [0], "last")
    draft = ask(drafting, texts[-1], "last")  # read in two parts
    if len(texts[-1]) > 1:
        assert draft.tokens == naive(texts, shortest + more, shortest, 16)
    assert draft.parents == list(range(-1, len(draft.tokens) - 1))


def test_nothing_crosses_groups():
    drafting = opened("ngram")
    finish(drafting, [1, 2, 3, 4, 5], "b", "secret")
    assert ask(drafting, [1, 2, 3], "c", "other").tokens == []
    assert ask(drafting, [1, 2, 3], "d", "secret").tokens == [4, 5]


def test_groups_are_bounded():
    drafting = opened("ngram", slots=16)
    for number in range(40):
        finish(drafting, [1, 2, 3], "b", str(number))
    assert len(drafting._tables) == 16


def test_a_full_table_drafts_nothing_wrong_but_by_chance():
    """Other keys in a slot are seen by 31 bits of their hash."""
    drafting = opened("ngram", slots=16, longest=2, shortest=2)
    text = [n * 7 % 39 for n in range(39)]
    finish(drafting, text)
    for n in range(0, 37):
        draft = ask(drafting, [text[n], text[n + 1]], f"x{n}", most=1)
        assert draft.tokens in ([], [text[n + 2]])


def test_bounds_in_the_wrong_order_are_refused():
    with pytest.raises(SettingsError, match="shortest=3 is more than longest=2"):
        DRAFTERS.resolve({"method": "ngram", "shortest": 3, "longest": 2})
