"""Figures of a router against loops, and what has to hold of them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from treadle.combine.route.judged.tally import Routed, tally
from treadle.combine.route.records import ScoredQuestions


def made(seed: int, count: int, models: int, num_tasks: int) -> Routed:
    drawn = np.random.default_rng(seed)
    scores = drawn.random((count, models)).round(2)
    tasks = tuple(f"t{n % num_tasks}" for n in range(count)) if num_tasks else None
    names = tuple(f"m{n}" for n in range(models))
    questions = [f"q{n}" for n in range(count)]
    table = ScoredQuestions(questions, questions, names, scores, tasks=tasks)
    return Routed(table, drawn.integers(models, size=count), 0)


@given(st.integers(0, 99), st.integers(1, 20), st.integers(1, 5), st.integers(0, 3))
def test_every_figure_is_the_plain_mean_that_it_says(seed, count, models, num_tasks):
    routed = made(seed, count, models, num_tasks)
    found, scores = tally(routed, 0), routed.table.scores
    values = [scores[n, routed.choice[n]] for n in range(count)]
    assert found.score == pytest.approx(np.mean(values))
    assert found.random == pytest.approx(sum(scores.ravel()) / scores.size)
    assert found.query_oracle == pytest.approx(np.mean([max(row) for row in scores]))
    assert found.hindsight == pytest.approx(max(np.mean(scores[:, m]) for m in range(models)))
    assert found.difference == pytest.approx(np.mean(values) - np.mean(scores[:, 0]))
    assert found.query_oracle >= found.hindsight - 1e-12 >= found.random - 2e-12
    if not num_tasks:
        assert found.task_oracle is found.macro is found.within_task_gain is None
        return
    groups = [[n for n in range(count) if n % num_tasks == t] for t in range(num_tasks)]
    groups = [one for one in groups if one]
    best = [max(np.mean([scores[n, m] for n in one]) for m in range(models)) for one in groups]
    total = sum(b * len(one) for b, one in zip(best, groups, strict=True)) / count
    assert found.task_oracle == pytest.approx(total)
    assert found.within_task_gain == pytest.approx(found.score - total)
    assert found.macro == pytest.approx(np.mean([np.mean([values[n] for n in g]) for g in groups]))


def test_a_router_that_takes_the_best_single_model_differs_by_nothing():
    routed = made(1, 30, 4, 2)._replace(choice=np.zeros(30, np.int64))
    found = tally(routed, 0)
    assert found.difference == 0
    assert found.difference_interval == (0, 0)
    assert tally(routed._replace(single=None), 0).difference is None


def test_a_task_that_is_known_leaves_nothing_to_gain_within_it():
    routed = made(1, 40, 3, 2)
    scores = routed.table.scores
    best = [scores[t::2].mean(axis=0).argmax() for t in (0, 1)]
    found = tally(routed._replace(choice=np.asarray(best * 20)), 0)
    assert found.within_task_gain == pytest.approx(0)
