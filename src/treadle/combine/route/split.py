"""Which questions teach, and which choose: by the questions themselves, before anything else."""

from typing import NamedTuple

import numpy as np

from treadle.combine.route.records import ScoredQuestions
from treadle.core.errors import DataError
from treadle.core.seed import numpy_stream, stream_seed

__all__ = ["Sides", "at_most", "split", "without_tasks"]

_SPAN = 1 << 63


class Sides(NamedTuple):
    """Training and development questions."""

    train: ScoredQuestions
    dev: ScoredQuestions
    """Empty where there is none."""

    @property
    def seen(self) -> frozenset[int]:
        """Hashes of all questions."""
        return frozenset([*self.train.keys, *self.dev.keys])


def split(table: ScoredQuestions, dev_fraction: float, seed: int) -> Sides:
    """Return both sides of a table; a question that stands in it twice is on one of them.

    A hash of the question and the seed decides, whatever else is in the table.
    """
    dev, train = list[int](), list[int]()
    for place, key in enumerate(table.keys):
        drawn = stream_seed(seed, f"dev {key}") / _SPAN
        (dev if drawn < dev_fraction else train).append(place)
    if not train:
        train, dev = dev, []
    return Sides(table.rows(train), table.rows(dev))


def without_tasks(table: ScoredQuestions, names: list[str]) -> ScoredQuestions:
    """Return the table without the questions of some tasks.

    Raises:
        DataError: A task is not there, or nothing would be left.
    """
    if not names:
        return table
    known = sorted(set(table.tasks or ()))
    if lost := [one for one in names if one not in known]:
        raise DataError(
            f"No question is of the task '{lost[0]}', which was to be left out; the tasks are "
            f"{', '.join(known) or 'not told'}."
        )
    kept = [place for place, task in enumerate(table.tasks or ()) if task not in names]
    if not kept:
        raise DataError("Every task is left out; leave some in.")
    return table.rows(kept)


def at_most(table: ScoredQuestions, per_task: int | None, seed: int) -> ScoredQuestions:
    """Return at most so many questions of each task, drawn by the seed."""
    if per_task is None:
        return table
    tasks = np.asarray(table.tasks if table.tasks is not None else [""] * len(table.ids))
    kept: list[int] = []
    for task in dict.fromkeys(tasks.tolist()):
        places = np.flatnonzero(tasks == task)
        drawn = numpy_stream(seed, f"per task {task}").permutation(places)[:per_task]
        kept += [int(place) for place in drawn]
    return table.rows(sorted(kept))
