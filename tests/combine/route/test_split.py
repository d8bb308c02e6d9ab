"""Who teaches and who chooses: by the question alone."""

import pytest

from combine.route.made import records, table
from treadle.combine.route.split import at_most, split, without_tasks
from treadle.core.errors import DataError


def test_a_side_is_the_questions_own_whatever_else_is_there():
    whole = table(records(200))
    sides = split(whole, 0.2, seed=3)
    assert 20 < len(sides.dev.ids) < 60
    assert sides.seen == frozenset(whole.keys)
    half = split(whole.rows(range(0, 200, 2)), 0.2, seed=3)
    assert set(half.dev.questions) == set(sides.dev.questions) & set(whole.questions[::2])
    assert split(whole, 0.2, seed=4).dev.questions != sides.dev.questions


def test_a_question_that_stands_twice_is_on_one_side():
    whole = table(records(30) * 2)
    sides = split(whole, 0.5, seed=0)
    assert not set(sides.dev.questions) & set(sides.train.questions)


def test_limits():
    whole = table(records(10))
    assert not split(whole, 0.0, seed=0).dev.ids
    alone = split(whole.rows([0]), 0.99, seed=0)
    assert (len(alone.train.ids), len(alone.dev.ids)) == (1, 0)


def test_tasks_are_left_out_and_thinned():
    whole = table(records(10))
    assert set(without_tasks(whole, ["sums"]).tasks or ()) == {"letters"}
    assert len(at_most(whole, 2, seed=0).ids) == 4
    assert at_most(whole, None, seed=0) is whole
    with pytest.raises(DataError, match=r"no question|No question is of the task 'x'"):
        without_tasks(whole, ["x"])
    with pytest.raises(DataError, match="Every task is left out"):
        without_tasks(whole, ["sums", "letters"])
