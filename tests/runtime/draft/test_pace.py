"""What is admitted, against all choices; what is learnt of acceptance and of steps."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from treadle.runtime.draft.acceptance import Acceptance, TextAcceptance
from treadle.runtime.draft.pace import admitted, cut
from treadle.runtime.draft.proposal import Draft
from treadle.runtime.draft.step_seconds import StepSeconds
from treadle.runtime.speculate.shapes import is_chain, likeliest_path, start


@st.composite
def trees(draw):
    size = draw(st.integers(0, 4))
    parents = [draw(st.integers(-1, place - 1)) for place in range(size)]
    chances = [draw(st.floats(0.05, 0.98)) for _ in range(size)]
    return Draft(list(range(size)), parents, chances)


def reached(draft: Draft) -> list[float]:
    found: list[float] = []
    for parent, chance in zip(draft.parents, draft.chances, strict=True):
        found.append((found[parent] if parent >= 0 else 1.0) * chance)
    return found


@given(st.lists(trees(), min_size=1, max_size=3), st.lists(st.floats(0.01, 0.5), min_size=12))
def test_what_is_admitted_is_the_best_of_all_choices(drafts, steps):
    seconds = np.cumsum([1.0, *steps[:12]]).tolist()
    found = admitted(drafts, [reached(draft) for draft in drafts], seconds, 0.0)
    rates = []
    slots = [(n, place) for n, draft in enumerate(drafts) for place in range(len(draft.tokens))]
    for taken in product([False, True], repeat=len(slots)):
        chosen = {slot for slot, is_in in zip(slots, taken, strict=True) if is_in}
        parents = {(n, drafts[n].parents[p]) for n, p in chosen}
        if all(slot in chosen or slot[1] < 0 for slot in parents):
            gain = sum(reached(drafts[n])[p] for n, p in chosen)
            rates.append((len(drafts) + gain) / seconds[len(chosen)])
    count = sum(map(len, found))
    gain = sum(reached(d)[p] for d, places in zip(drafts, found, strict=True) for p in places)
    assert (len(drafts) + gain) / seconds[count] == pytest.approx(max(rates))
    for draft, places in zip(drafts, found, strict=True):
        part = cut(draft, places)
        assert all(-1 <= parent < place for place, parent in enumerate(part.parents))
        assert [draft.tokens[place] for place in places] == part.tokens


def test_no_draft_runs_where_it_brings_too_little():
    draft = Draft([1], [-1], [0.1])
    assert admitted([draft], [[0.1]], [1.0, 1.09], 0.02) == [[]]
    assert admitted([draft], [[0.1]], [1.0, 1.05], 0.02) == [[0]]
    assert admitted([draft], [[0.1]], [1.0], 0.0) == [[]]
    assert admitted([], [], [1.0], 0.0) == []


def test_acceptance_is_learnt_by_kind_and_text():
    acceptance, good, bad = Acceptance(), TextAcceptance(), TextAcceptance()
    draft = Draft([1, 2], [-1, 0], [0.9, 0.9], "own", 4)
    generator = np.random.default_rng(0)
    for _ in range(300):
        acceptance.observe(draft, good, [1, 2] if generator.random() < 0.8 else [0])
        acceptance.observe(draft, bad, [0])
    assert acceptance.reached(draft, good)[0] > 0.44
    assert acceptance.reached(draft, bad)[0] < 0.15
    fresh = acceptance.reached(draft, TextAcceptance())
    assert fresh[0] == pytest.approx(0.4, abs=0.12)
    assert fresh[1] > 0.7 * fresh[0]  # where the first is right, the second was
    other = draft._replace(matched=60)
    assert acceptance.reached(other, TextAcceptance())[0] < 0.6  # of a source that claims too much


def test_a_draft_that_did_not_run_is_followed_to_its_end():
    acceptance, text = Acceptance(), TextAcceptance()
    draft = Draft([1, 5, 2, 3], [-1, -1, 0, 2], [0.5] * 4, "own", 4)
    assert acceptance.observe(draft, text, [1]) == 0
    assert acceptance.observe(draft, text, [2], 0) == 2
    assert acceptance.observe(draft, text, [3], 2) is None
    assert acceptance.observe(draft, text, [1, 9]) is None
    assert acceptance.observe(draft, text, [5]) is None


def test_a_source_that_was_wrong_is_tried_again_some_day():
    acceptance, text = Acceptance(), TextAcceptance()
    draft = Draft([1], [-1], [0.9], "own", 4)
    for _ in range(100):
        acceptance.observe(draft, TextAcceptance(), [0])
    low = acceptance.reached(draft, text)
    for _ in range(4000):
        acceptance.observe(draft._replace(source="past"), TextAcceptance(), [1])
    assert low == [pytest.approx(0.06, abs=0.06)]
    assert acceptance.reached(draft, text)[0] > low[0]


@given(st.floats(0.001, 1), st.floats(0, 0.3), st.integers(0, 50))
def test_steps_of_any_slope_are_learnt(base, slope, seed):
    generator, steps = np.random.default_rng(seed), StepSeconds()
    for _ in range(150):
        rows = int(generator.integers(1, 12))
        noise = 1 + 0.05 * generator.standard_normal()
        steps.observe(rows, base * (1 + slope * (rows - 1)) * max(noise, 0.5))
    found = steps.of(range(1, 12))
    expected = base * (1 + slope * np.arange(11))
    np.testing.assert_allclose(found, expected, rtol=0.12)
    assert (np.diff(found) >= 0).all()


def test_before_a_step_was_measured_rows_cost_something_and_outliers_count_little():
    steps = StepSeconds()
    assert (np.diff(steps.of(range(1, 9))) > 0).all()
    steps.observe(1, 0.0)
    assert steps.num_observed == 0
    for _ in range(50):
        steps.observe(1, 1.0)
    steps.observe(1, 1000.0)
    assert steps.of([1])[0] < 1.2
    assert steps.of([1, 9])[1] == pytest.approx(1.64, abs=0.15)  # the prior: no other was seen


@given(trees())
def test_parts_of_drafts(draft):
    path = likeliest_path(draft)
    assert is_chain(path)
    place = -1
    for token in path.tokens:
        children = [p for p, parent in enumerate(draft.parents) if parent == place]
        place = max(children, key=lambda p: (draft.chances[p], -p))
        assert draft.tokens[place] == token
    assert place not in draft.parents or is_chain(draft)
    assert start(draft, 2).tokens == draft.tokens[:2]
