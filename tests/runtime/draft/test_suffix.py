"""The suffix drafter: lengths, sources, memory, and what it must not know."""

import sys

import pytest

from runtime.draft.texts import ask, finish, opened
from treadle.core.errors import SettingsError
from treadle.runtime.draft.pasts import PastTexts
from treadle.runtime.draft.proposal import DraftText
from treadle.runtime.draft.tables import DRAFTERS


@pytest.mark.parametrize(
    ("factor", "offset", "length"), [(1, 0, 3), (2, 0, 6), (0, 2, 2), (0, 0, 0)]
)
def test_a_draft_is_as_long_as_its_match_allows(factor, offset, length):
    draft = ask(opened("suffix", factor=factor, offset=offset), [1, 2, 3, *range(4, 20), 1, 2, 3])
    assert draft.tokens == list(range(4, 20))[:length]
    assert (draft.matched, draft.source) == ((3, "own") if length else (0, ""))


def test_chances_are_shares_of_what_followed_and_end_the_draft():
    text = [*[1, 2, 5, 8] * 3, 1, 2, 6, 1, 2]
    assert ask(opened("suffix"), text).chances == [0.75, 1.0]
    tree = ask(opened("suffix", shape="tree", factor=9), text, most=5)
    found = list(zip(tree.parents, tree.tokens, tree.chances, strict=True))
    assert found[:4] == [(-1, 5, 0.75), (0, 8, 1.0), (1, 1, 1.0), (2, 2, 1.0)]
    whole = ask(opened("suffix", shape="tree", factor=9), text)
    assert {t for t, p in zip(whole.tokens, whole.parents, strict=True) if p < 0} == {5, 6}
    assert ask(opened("suffix", least_chance=0.8), text).tokens == []


def test_the_source_that_expects_more_is_taken():
    drafting = opened("suffix")
    assert ask(drafting, [9, 1, 2]).tokens == []
    finish(drafting, [0, 1, 2, 3, 4, 5], "b")
    draft = ask(drafting, [9, 1, 2])
    assert (draft.tokens, draft.source) == ([3, 4], "past")
    own = [*[7, 1, 2, 9] * 2, 7, 1, 2]
    assert ask(drafting, own, "c").source == "own"


def test_nothing_crosses_groups():
    drafting = opened("suffix")
    finish(drafting, [0, 1, 2, 3, 4, 5], "b", "secret")
    assert ask(drafting, [9, 1, 2], "d", "other").tokens == []
    assert ask(drafting, [9, 1, 2], "e", "secret").tokens == [3, 4]


def test_memory_is_bounded_and_the_oldest_goes_first():
    pasts = PastTexts(40)
    for number in range(30):
        pasts.add(number % 3, [number] * 5)
        assert pasts.num_tokens <= 40
    known = {token for group in range(3) for a in pasts.of(group) for token in a.followers[0]}
    assert set(range(25, 30)) <= known <= set(range(18, 30))
    none = PastTexts(0)
    none.add("", [1, 2])
    assert none.of("") == ()


def test_a_long_text_leaves_its_end():
    pasts = PastTexts(8)
    pasts.add("", [1, 2, 3, 4])
    assert set(pasts.of("")[0].followers[0]) == {3, 4}


def test_reading_on_costs_as_much_in_a_long_text_as_in_a_short_one():
    """Counted in calls of Python, which no busy machine changes."""
    counts = []
    for length in (200, 2000):
        drafting, text = opened("suffix"), [n * n % 37 for n in range(length)]
        drafting.propose([DraftText("a", text, 1, "")], 8)
        calls = 0

        def count(*_):
            nonlocal calls
            calls += 1

        sys.setprofile(count)
        for token in range(20):
            text.append(token)
            drafting.propose([DraftText("a", text, 1, "")], 8)
        sys.setprofile(None)
        counts.append(calls)
    assert counts[1] < 1.5 * counts[0]


def test_what_is_out_of_bounds_is_refused():
    with pytest.raises(SettingsError, match="least_chance"):
        DRAFTERS.resolve({"method": "suffix", "least_chance": 0})
