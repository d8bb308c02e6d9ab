"""Trees in page tables, against loops over them."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from runtime.sharing.grown import grown, step_of
from treadle.runtime.sharing.cost import Costs
from treadle.runtime.sharing.flat import flattened
from treadle.runtime.sharing.plan import Tiling, plan_runs, worth
from treadle.runtime.sharing.trees import cascade, runs_of, spans_of

SIZE = 4


def drawn(seed: int, count: int):
    rng = np.random.default_rng(seed)
    return step_of(grown(rng, SIZE, 6, count), SIZE, rng, 50)


@given(st.integers(0, 10**6), st.integers(1, 20))
def test_every_page_of_every_path_stands_in_one_span(seed, count):
    rows = drawn(seed, count)
    tables = [
        rows.pages[a:b].tolist()
        for a, b in zip(rows.page_starts, rows.page_starts[1:], strict=False)
    ]
    runs = runs_of(rows, 8)
    in_runs = [segment for run in runs for segment in run.segments]
    assert len(in_runs) == len(set(in_runs))
    for segment, table in enumerate(tables):
        shares = any(table[0] == other[0] for n, other in enumerate(tables) if n != segment)
        assert shares == (segment in in_runs)
    for run in runs:
        spans = spans_of(run, 0, len(run.segments))
        for number, segment in enumerate(run.segments):
            own = [span for span in spans if span.first <= number < span.last]
            assert [p for span in own for p in range(span.begin, span.end)] == list(
                range(len(tables[segment]))
            )
        for span in spans:
            inside = {
                tuple(tables[s][span.begin : span.end])
                for s in run.segments[span.first : span.last]
            }
            assert len(inside) == 1
            outside = run.segments[: span.first] + run.segments[span.last :]
            assert all(
                tables[s][: span.begin + 1] != tables[run.segments[span.first]][: span.begin + 1]
                for s in outside
            )


@given(st.integers(0, 10**6))
def test_a_flat_tree_shows_each_row_its_path(seed):
    rows = drawn(seed, 12)
    for run in runs_of(rows, 8):
        flat = flattened(rows, run, SIZE)
        for place, row in enumerate(flat.members.tolist()):
            first, context = rows.page_starts[row], int(rows.context_lengths[row])
            expected = [(int(rows.pages[first + j // SIZE]), j % SIZE) for j in range(context)]
            slots = np.flatnonzero(flat.seen[place])
            assert [(int(flat.pages[j // SIZE]), j % SIZE) for j in slots] == expected


def test_segments_of_many_rows_and_of_kept_entries_stand_apart():
    rng = np.random.default_rng(0)
    rows = step_of(grown(rng, SIZE, 6, 12, rows=6), SIZE, rng, 50)
    counts = np.diff(rows.row_starts)
    for run in runs_of(rows, 3):
        assert all(counts[segment] <= 3 for segment in run.segments)


def test_cascades_have_two_levels():
    rows = drawn(5, 20)
    run = max(runs_of(rows, 8), key=lambda one: len(one.segments))
    spans = cascade(run, 0, len(run.segments))
    assert {span.last - span.first for span in spans} == {1, len(run.segments)}


def test_sharing_is_chosen_where_it_saves_more_than_its_plan_costs():
    rows = drawn(5, 20)
    run = max(runs_of(rows, 8), key=lambda one: len(one.segments))
    costs = Costs((1, 2, 4, 8, 16), (1.0, 1.5, 2.5, 4.5, 8.5))
    assert costs.of(3) == 2.0
    assert costs.of(32) == 17.0
    spans = spans_of(run, 0, len(run.segments))
    counts = [1] * len(run.segments)
    expected = sum(
        ((s.last - s.first) * 1.0 - costs.of(s.last - s.first)) * (s.end - s.begin) * SIZE
        for s in spans
    )
    assert np.isclose(costs.saved(spans, counts, SIZE), expected)
    cheap = Costs(costs.rows, tuple(s * 1e-12 for s in costs.seconds))
    assert worth(rows, run, Tiling(SIZE, 16), costs, 1)
    assert not worth(rows, run, Tiling(SIZE, 16), cheap, 1)
    dear = Costs((1, 16), (1.0, 160.0))  # together they take ten times as long as apart
    assert not worth(rows, run, Tiling(SIZE, 16), dear, 1)
    auto = plan_runs(rows, [run], Tiling(SIZE, 16), "auto", costs)
    exact = plan_runs(rows, [run], Tiling(SIZE, 16), "flatten")
    assert np.array_equal(auto.pieces, exact.pieces)
