"""The control that knows the task alone."""

import numpy as np
import pytest

from combine.route.made import data, kinds_of, texts_of
from treadle.combine.route.methods.task_prior import TaskPrior
from treadle.core.errors import SettingsError
from treadle.core.run import is_control


def test_every_question_of_a_task_goes_to_its_best_model():
    made, fresh = data(60), data(30, seed=3)
    (learned,) = TaskPrior().learn(made, seed=0)
    scores = learned.scorer.scores(texts_of(fresh), fresh.vectors)
    for kind in (0, 1):
        mean = made.worth[kind::2].mean(axis=0)
        assert scores[kinds_of(fresh) == kind] == pytest.approx(
            np.repeat(mean[None], 15, axis=0), abs=1e-6
        )
    assert "2 tasks" in learned.note
    assert is_control(TaskPrior())


def test_without_tasks_it_makes_clusters_of_its_own_and_says_so():
    made = data(60, has_tasks=False)
    (learned,) = TaskPrior(num_clusters=2).learn(made, seed=0)
    chosen = learned.scorer.scores(texts_of(made), made.vectors).argmax(axis=1)
    assert (chosen == kinds_of(made)).all()
    assert "2 clusters of the training questions" in learned.note


def test_clusters_of_the_records_come_before_its_own():
    made = data(20, has_tasks=False)._replace(clusters=tuple(n % 2 for n in range(20)))
    (learned,) = TaskPrior().learn(made, seed=0)
    assert "2 clusters that the records say" in learned.note


def test_tasks_that_are_not_there_are_refused():
    with pytest.raises(SettingsError, match=r"name no tasks.*go by clusters"):
        list(TaskPrior(by="task").learn(data(has_tasks=False), seed=0))
