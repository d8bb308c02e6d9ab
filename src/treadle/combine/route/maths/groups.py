"""Questions that belong together: by their task, their records' clusters, or their vectors."""

from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from treadle.combine.route.base import RouteData
from treadle.combine.route.maths.centroids import k_means
from treadle.core.errors import SettingsError
from treadle.core.seed import numpy_stream

__all__ = ["By", "Groups", "grouped"]

By = Literal["auto", "task", "cluster"]


class Groups(NamedTuple):
    """Which group each question is of."""

    labels: npt.NDArray[np.int64]
    num: int
    says: str
    """Where they come from, for people."""


def grouped(data: RouteData, by: By, num_clusters: int, seed: int) -> Groups:
    """Return the groups of training questions.

    Args:
        data: The questions.
        by: task; cluster, as the records say them or else by k-means of these questions alone; auto
            takes the first of these that there is.
        num_clusters: Of k-means.
        seed: Of k-means.

    Raises:
        SettingsError: Tasks are asked for, and the records say none.
    """
    if by == "task" and data.tasks is None:
        raise SettingsError(
            "The records name no tasks to go by; give each a 'task', or go by clusters."
        )
    if by != "cluster" and data.tasks is not None:
        names = sorted(set(data.tasks))
        labels = np.asarray([names.index(one) for one in data.tasks], np.int64)
        return Groups(labels, len(names), f"the {len(names)} tasks of the records")
    if data.clusters is not None:
        numbers = sorted(set(data.clusters))
        labels = np.asarray([numbers.index(one) for one in data.clusters], np.int64)
        return Groups(labels, len(numbers), f"the {len(numbers)} clusters that the records say")
    centres, labels = k_means(
        data.vectors, min(num_clusters, len(data.vectors)), numpy_stream(seed, "clusters")
    )
    return Groups(labels, len(centres), f"{len(centres)} clusters of the training questions")
