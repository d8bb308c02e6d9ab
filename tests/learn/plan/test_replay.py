"""Replaying an order, against the definition of lives."""

import pytest
from hypothesis import given, settings

from learn.plan.cases import drawn_problem, order_of
from learn.plan.graphs import Builder, graphs
from learn.plan.naive import naive_live_bytes, naive_profile
from treadle.core.errors import DataError
from treadle.learn.plan.methods.random import Random
from treadle.learn.plan.problem import build_problem, check_order
from treadle.learn.plan.replay import blocks_of, live_at, replay
from treadle.learn.plan.running import Running


@settings(max_examples=150, deadline=None)
@given(graph=graphs(12))
def test_the_profile_is_that_of_the_lives(graph):
    for donate in (False, True):
        problem = build_problem(graph, donate=donate)
        for seed in range(3):
            order = order_of(Random(), problem, seed)
            assert list(replay(problem, order).profile) == naive_profile(problem, order)


@pytest.mark.parametrize("seed", range(6))
def test_a_running_schedule_counts_what_its_replay_counts(seed):
    problem = drawn_problem(seed, 30)
    order = order_of(Random(), problem, seed)
    found, state = replay(problem, order), Running(problem)
    for place, task in enumerate(order):
        assert state.live == found.live[place]
        assert state.needed(task) == found.profile[place]
        state.run(task)
    assert state.peak == found.peak


@pytest.mark.parametrize("seed", range(6))
def test_blocks_hold_what_is_live(seed):
    """Without competing donations the blocks' bytes are the profile, position by position."""
    problem = drawn_problem(seed, 25, donate=False)
    order = order_of(Random(), problem, seed)
    blocks = blocks_of(problem, order)
    for place, num_bytes in enumerate(replay(problem, order).profile):
        assert sum(b.num_bytes for b in blocks if b.start <= place <= b.end) == num_bytes
    assert naive_live_bytes(blocks) == replay(problem, order).peak


def chain():
    """A value that two operators rewrite in place, the second one only if nobody else reads."""
    built = Builder("chain")
    built.run("a", makes=[("a", 100)])
    built.run("b", ["a"], [("b", 100)], in_place=[("a", "b")])
    built.run("c", ["b"], [("c", 100)], in_place=[("b", "c")])
    built.run("d", ["b", "c"], [("d", 10)], outputs=["d"])
    return built.graph()


def test_donation_hands_bytes_on_only_where_the_input_dies():
    problem = build_problem(chain())
    found = replay(problem, [0, 1, 2, 3])
    assert found.donated == ((0, 1),), "b is read again by d"
    assert found.profile == (128, 128, 256, 320)
    assert [block.values for block in blocks_of(problem, [0, 1, 2, 3])] == [(0, 1), (2,), (3,)]
    plain = build_problem(chain(), donate=False)
    assert replay(plain, [0, 1, 2, 3]).profile == (128, 256, 256, 320)


def test_what_is_live_is_named_as_it_is_called_then():
    problem = build_problem(chain())
    assert [problem.names[v] for v in live_at(problem, [0, 1, 2, 3], 0)] == ["a"]
    assert [problem.names[v] for v in live_at(problem, [0, 1, 2, 3], 1)] == ["b"]
    assert [problem.names[v] for v in live_at(problem, [0, 1, 2, 3], 3)] == ["b", "c", "d"]


def test_an_order_that_is_none_is_refused():
    problem = build_problem(chain())
    with pytest.raises(DataError, match="runs 'c' before 'b', which it needs"):
        check_order(problem, [0, 2, 1, 3])
    with pytest.raises(DataError, match="each of the 4 once"):
        check_order(problem, [0, 1, 1, 3])


def test_alignment_rounds_values_and_scratch_up():
    built = Builder("odd")
    built.run("a", makes=[("a", 1)], scratch=65)
    assert build_problem(built.graph(), alignment_bytes=64).sizes == (64,)
    assert build_problem(built.graph(), alignment_bytes=64).tasks[0].scratch_bytes == 128
    assert build_problem(built.graph(), alignment_bytes=1).tasks[0].scratch_bytes == 65
