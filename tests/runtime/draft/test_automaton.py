"""The automaton's counts, matches and drafts against naive ones over all stretches of the texts."""

from hypothesis import given, settings
from hypothesis import strategies as st

from treadle.runtime.draft.automaton import Match, SuffixAutomaton

texts = st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=14), min_size=1, max_size=3)


def grown(several: list[list[int]]) -> SuffixAutomaton:
    automaton = SuffixAutomaton()
    for text in several:
        automaton.begin()
        for token in text:
            automaton.extend(token)
    return automaton


def count(several: list[list[int]], stretch: list[int]) -> int:
    size = len(stretch)
    return sum(
        text[at : at + size] == stretch for text in several for at in range(len(text) - size + 1)
    )


def state_of(automaton: SuffixAutomaton, stretch: list[int]) -> int:
    state = 0
    for token in stretch:
        state = automaton.followers[state].get(token, -1)
        if state < 0:
            return -1
    return state


def longest_end(several: list[list[int]], text: list[int]) -> int:
    return max(size for size in range(len(text) + 1) if not size or count(several, text[-size:]))


@given(texts, st.lists(st.integers(0, 3), max_size=6))
def test_every_stretch_is_known_with_its_count(several, other):
    automaton = grown(several)
    stretches = [t[a:b] for t in several for a in range(len(t)) for b in range(a + 1, len(t) + 1)]
    for stretch in [*stretches, *([other] if other else [])]:
        state, expected = state_of(automaton, stretch), count(several, stretch)
        assert (automaton.counts[state] if state >= 0 else 0) == expected
    assert len(automaton.links) <= 2 * sum(map(len, several)) + 1


@given(texts, st.lists(st.integers(0, 3), min_size=1, max_size=12))
def test_the_longest_end_of_another_text_is_found_while_the_automaton_grows(several, text):
    """Half of the texts come before the other text is read, half of them meanwhile."""
    automaton, match = SuffixAutomaton(), Match(0, 0)
    read: list[list[int]] = []
    for number, token in enumerate(text):
        if number < len(several):
            automaton.begin()
            for one in several[number]:
                automaton.extend(one)
            read.append(several[number])
        before = match
        match = automaton.follow(match, token)
        so_far = text[: number + 1]
        # What came since the end was followed last may have made a longer one known.
        assert min(before.length + 1, longest_end(read, so_far)) == match.length
        if match.length:
            assert automaton.counts[match.state] == count(read, so_far[-match.length :])


@given(st.lists(st.integers(0, 2), min_size=1, max_size=20))
def test_a_text_knows_the_longest_end_that_it_has_seen_before(text):
    found = grown([text]).repeated.length
    expected = [s for s in range(1, len(text)) if count([text], text[-s:]) > 1]
    assert found == max(expected, default=0)


@settings(max_examples=60)
@given(texts, st.floats(0.05, 1.0), st.integers(1, 12))
def test_a_tree_has_the_likeliest_continuations_and_a_path_is_one_of_them(several, least, most):
    automaton, text = grown(several), several[-1]
    match = automaton.repeated
    if not match.length:
        return
    end = text[-match.length :]

    def chance(after: list[int]) -> float:
        found, so_far = 1.0, list(end)
        for place, token in enumerate(after):
            places = count(several, so_far) - (place == 0)
            found *= min(1.0, count(several, [*so_far, token]) / max(1, places))
            so_far.append(token)
        return found

    def paths(draft):
        found = []
        for token, parent in zip(draft.tokens, draft.parents, strict=True):
            found.append([*(found[parent] if parent >= 0 else []), token])
        return found

    def expected(after: list[int]):
        for token in range(4):
            if count(several, [*end, *after, token]) and chance([*after, token]) >= least:
                yield [*after, token]
                yield from expected([*after, token])

    everything = sorted((chance(path) for path in expected([])), reverse=True)
    tree = automaton.tree(match, most, least, 1)
    found = [chance(path) for path in paths(tree)]
    assert len({tuple(path) for path in paths(tree)}) == len(tree.tokens)
    assert len(found) == min(most, len(everything))
    assert all(abs(a - b) < 1e-9 for a, b in zip(found, everything, strict=False))
    path = automaton.path(match, most, least, 1)
    own = paths(path)
    assert own == [path.tokens[: n + 1] for n in range(len(path.tokens))]
    assert all(chance(one) >= least for one in own)
