"""What an answer is worth: its score, less what it costs and how long it takes."""

from typing import NamedTuple

import numpy as np

from treadle.combine.route.maths.averages import means
from treadle.combine.route.records import Doubles, ScoredQuestions
from treadle.core.errors import DataError, SettingsError

__all__ = ["Rates", "chosen", "mean_by_model"]


class Rates(NamedTuple):
    """What is taken off a score."""

    cost_rate: float
    """For a unit of cost."""
    latency_rate: float
    """For a second."""

    def worth(self, table: ScoredQuestions) -> Doubles:
        """Return what every answer is worth [questions, models]; NaN where there is none.

        Raises:
            DataError: A rate is above 0, and an answer does not say what it took.
            SettingsError: A rate is below 0.
        """
        found = table.scores
        told = [("cost", self.cost_rate, table.cost), ("latency", self.latency_rate, table.latency)]
        for name, rate, taken in told:
            if rate < 0:
                raise SettingsError(f"{name}_rate = {rate:g}; give 0 or more.")
            if rate == 0:
                continue
            if taken is None or np.isnan(taken[np.isfinite(table.scores)]).any():
                raise DataError(
                    f"{name}_rate = {rate:g} weighs the {name} of every answer, and the records do "
                    f"not say it of all; give each '{name}', or leave {name}_rate out."
                )
            found = found - rate * taken
        return found


def chosen(scores: Doubles, worth: Doubles) -> Doubles:
    """Return what the models of the largest score are worth [questions].

    Who was not asked a question cannot be chosen for it; the first of equals is.
    """
    open_to = np.where(np.isfinite(worth), scores, -np.inf)
    found: Doubles = worth[np.arange(len(worth)), open_to.argmax(axis=1)]
    return found


def mean_by_model(values: Doubles | None, models: tuple[str, ...]) -> dict[str, float] | None:
    """Return the mean of each model's known values; None where there are none at all."""
    if values is None:
        return None
    return {name: float(one) for name, one in zip(models, means(values), strict=True)}
