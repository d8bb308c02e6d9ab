"""What a router is worth on some questions, beside all that it has to be compared with."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from treadle.combine.route.records import Doubles, ScoredQuestions
from treadle.core.intervals import Interval, bootstrap_mean

__all__ = ["Routed", "Tally", "tally"]

Places = npt.NDArray[np.int64]


class Routed(NamedTuple):
    """Questions, and who answers each."""

    table: ScoredQuestions
    """Of the models that the router chooses among, in its order; every score is there."""
    choice: Places
    """[questions]"""
    single: int | None
    """The model that is best on the training questions; None where nobody knows it."""

    @property
    def values(self) -> Doubles:
        """What the chosen models got [questions]."""
        found: Doubles = self.table.scores[np.arange(len(self.choice)), self.choice]
        return found

    def rows(self, places: Sequence[int]) -> "Routed":
        """Return what is said of some questions."""
        chosen = list(places)
        return self._replace(table=self.table.rows(chosen), choice=self.choice[chosen])


class Tally(NamedTuple):
    """The figures of one set of questions; an oracle looks at the test itself."""

    num_questions: int
    score: float
    interval: Interval
    single: float | None
    """Of the model that is best on the training questions."""
    hindsight: float
    """Of the model that is best on these."""
    hindsight_model: str
    random: float
    """The mean of all scores: what a model that is drawn is expected to get."""
    task_oracle: float | None
    """Of the best model of each task; None where no tasks are told."""
    query_oracle: float
    difference: float | None
    """Of the router and the best single model of training."""
    difference_interval: Interval | None
    macro: float | None
    """The mean over tasks, of which each counts alike."""

    @property
    def within_task_gain(self) -> float | None:
        """What is won over knowing the task and nothing else."""
        return None if self.task_oracle is None else self.score - self.task_oracle


def tally(routed: Routed, seed: int) -> Tally:
    """Return the figures; intervals are bootstrapped over questions, paired where they compare."""
    table, values = routed.table, routed.values
    scores = table.scores
    usual = scores.mean(axis=0)
    best = int(usual.argmax())
    single = None if routed.single is None else scores[:, routed.single]
    won = None if single is None else values - single
    by_task = _by_task(table)
    return Tally(
        len(values),
        float(values.mean()),
        bootstrap_mean(values.tolist(), seed),
        None if single is None else float(single.mean()),
        float(usual[best]),
        table.models[best],
        float(scores.mean()),
        _task_oracle(scores, by_task) if by_task else None,
        float(scores.max(axis=1).mean()),
        None if won is None else float(won.mean()),
        None if won is None else bootstrap_mean(won.tolist(), seed),
        float(np.mean([values[rows].mean() for rows in by_task])) if by_task else None,
    )


def _by_task(table: ScoredQuestions) -> list[Places]:
    """Return the places of each task's questions."""
    if table.tasks is None:
        return []
    tasks = np.asarray(table.tasks)
    return [np.flatnonzero(tasks == one) for one in dict.fromkeys(table.tasks)]


def _task_oracle(scores: Doubles, by_task: Sequence[Places]) -> float:
    total = sum(float(scores[rows].mean(axis=0).max()) * len(rows) for rows in by_task)
    return total / len(scores)
