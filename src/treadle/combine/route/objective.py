"""What an answer is worth: its score, less what it costs and how long it takes."""

import math
from typing import NamedTuple

import numpy as np

from treadle.combine.route.maths.averages import means
from treadle.combine.route.records import Doubles, ScoredQuestions
from treadle.core.errors import DataError, SettingsError

__all__ = ["Rates", "chosen", "mean_by_model", "num_unasked"]

_MOST = 1e6
"""That may be taken off: in float32, scores are not told apart beside more."""


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
            SettingsError: A rate is no number from 0 on, or leaves nothing of the scores.
        """
        found = table.scores
        told = [("cost", self.cost_rate, table.cost), ("latency", self.latency_rate, table.latency)]
        for name, rate, taken in told:
            if not (math.isfinite(rate) and rate >= 0):
                raise SettingsError(f"{name}_rate = {rate:g}; give 0 or more (a finite number).")
            if rate == 0:
                continue
            if taken is None or np.isnan(taken[np.isfinite(table.scores)]).any():
                raise DataError(
                    f"{name}_rate = {rate:g} weighs the {name} of every answer, and the records do "
                    f"not say it of all; give each '{name}', or leave {name}_rate out."
                )
            with np.errstate(over="ignore"):
                off = rate * taken
            most = float(np.nanmax(np.where(np.isfinite(table.scores), off, 0), initial=0))
            if most > _MOST:
                raise SettingsError(
                    f"{name}_rate = {rate:g} takes {most:g} off a score of at most 1, beside which "
                    f"scores are not told apart; give a smaller one."
                )
            found = found - off
        return found


def chosen(scores: Doubles, worth: Doubles) -> Doubles:
    """Return what the models of the largest score are worth [questions].

    Who was not asked a question cannot be chosen for it; the first of equals is. See
    `num_unasked`.
    """
    open_to = np.where(np.isfinite(worth), scores, -np.inf)
    found: Doubles = worth[np.arange(len(worth)), open_to.argmax(axis=1)]
    return found


def num_unasked(scores: Doubles, worth: Doubles) -> int:
    """Return for how many questions the model of the largest score was not asked."""
    if not len(worth):
        return 0
    return int(np.isnan(worth[np.arange(len(worth)), scores.argmax(axis=1)]).sum())


def mean_by_model(values: Doubles | None, models: tuple[str, ...]) -> dict[str, float] | None:
    """Return the mean of each model's known values; None where there are none at all."""
    if values is None:
        return None
    return {name: float(one) for name, one in zip(models, means(values), strict=True)}
