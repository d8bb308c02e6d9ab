"""Task prior: recognise the task, and take its best model."""

from collections.abc import Iterator
from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field

from treadle.combine.route.base import Learned, RouteData, RouteMethod
from treadle.combine.route.maths.averages import group_means
from treadle.combine.route.maths.groups import By, grouped
from treadle.combine.route.maths.regression import ridge
from treadle.core.method import Control
from treadle.runtime.routed.queries.scorers import TaskScores

__all__ = ["TaskPrior"]


class TaskPrior(RouteMethod):
    """Recognise of which task a query is, and send it to the model that is best at that task.

    The task is the largest of linear scores, W v + b, by ridge regression on one-hot labels; the
    model is the one of the largest mean worth on the task's training questions. Who is better than
    this tells queries of one task apart.
    """

    name: ClassVar[str] = "task_prior"
    paper = Control("What it is worth to know the task and nothing else.")

    by: By = "auto"
    """What a task is: the records' task, a cluster, or the first of these that there is."""
    num_clusters: Annotated[int, Field(ge=1)] = 16
    """Of k-means, where the records say neither tasks nor clusters."""

    def learn(self, data: RouteData, seed: int) -> Iterator[Learned]:
        """Yield the router."""
        groups = grouped(data, self.by, self.num_clusters, seed)
        weight, bias, _ = ridge(data.vectors, np.eye(groups.num)[groups.labels])
        values = group_means(data.worth, groups.labels, groups.num).astype(np.float32)
        yield Learned(TaskScores(weight, bias, values), note=f"A task is one of {groups.says}.")
