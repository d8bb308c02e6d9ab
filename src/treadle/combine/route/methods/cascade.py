"""Cascade: ask the small model first, and the next one where it is unsure."""

from collections.abc import Iterator
from typing import Annotated, ClassVar, NamedTuple

import numpy as np
from pydantic import Field

from treadle.combine.route.base import Doubles, Learned, RouteData, RouteMethod
from treadle.combine.route.maths.certified import certified
from treadle.combine.route.maths.ladder import ladder
from treadle.core.errors import DataError
from treadle.core.method import Paper
from treadle.core.seed import numpy_stream
from treadle.runtime.routed.queries.program import Floats
from treadle.runtime.routed.queries.scorers import CascadeScores

__all__ = ["Cascade"]

_LEVELS = np.linspace(0.0, 1.0, 101)
"""Of sureness, as quantiles of each model's own: at 0 the first model's answer always stands, at 1
only the last one's does."""
_USUAL_LOSS = 0.05
_ROUNDING = 1e-9
_NEVER = 2.0
"""No model is as sure as this, so that who would have to be is not asked."""


class _Chain(NamedTuple):
    """Models in the order in which they are asked."""

    models: list[int]
    cost: Doubles
    """[models in the chain], of an answer in the mean."""
    sure: Doubles
    """[questions, models in the chain but the last] of the questions that settled the order."""

    def thresholds(self, level: float) -> Floats:
        """Return how sure each model but the last must be of its answer, as it is written down."""
        if level in (0.0, 1.0):
            return np.full(self.sure.shape[1], _NEVER * level, np.float32)
        return np.asarray(np.quantile(self.sure, level, axis=0), np.float32)


class _Claims(NamedTuple):
    """What calibration says of every level."""

    loss: Doubles
    cost: Doubles
    """Over that of always asking the last model."""
    answered: list[Doubles]
    """Shares of questions that each model of the chain answers."""


class _Halves(NamedTuple):
    """Rows, by their questions."""

    rest: np.ndarray
    """Rows that calibrate."""
    first: np.ndarray
    """Rows that order the models."""
    weights: Doubles
    """Of those that calibrate; a question's rows share its own, and all add up to 1."""
    num_questions: int
    """That calibrate."""


class Cascade(RouteMethod):
    """Ask from the cheapest model to the best, until one is sure enough of its answer.

    On one half of the questions models are ordered by their mean cost, and those are left out that
    cost more than another and are no better. A level u makes thresholds, the u-quantiles of each
    model's confidence there. The other half calibrates u: with loss = max(0, score of the last
    model - score of who answers), H_u "the mean loss is above max_loss" is tested from u = 1 down,
    at level delta each, until one stands; so the cheapest cascade is taken of which P(mean loss <=
    max_loss) >= 1 - delta. A bound on costs is tested from u = 0 up; they are counted as the mean
    costs of all models that are asked. Both at once share delta. Rows that ask the same question
    are on one half, and count once, as their mean: what is claimed is of questions, each alike.
    FrugalGPT learns who is sure of what; here it is the mean probability of an answer's tokens, and
    a bound comes with a guarantee of finite samples (Learn then Test,
    https://arxiv.org/abs/2110.01052).

    Paper: FrugalGPT: how to use large language models while reducing cost and improving
    performance, 2023.
    """

    name: ClassVar[str] = "cascade"
    reads_vectors: ClassVar[bool] = False
    weighs_rates: ClassVar[bool] = False
    paper = Paper(
        "FrugalGPT: How to Use Large Language Models While Reducing Cost and Improving Performance",
        2023,
        "https://arxiv.org/abs/2305.05176",
    )

    max_loss: Annotated[float, Field(gt=0, le=1)] | None = None
    """Most of a score that may be lost in the mean against always asking the best model (0.05 where
    no bound is given)."""
    max_cost: Annotated[float, Field(gt=0)] | None = None
    """Most that answers may cost in the mean, as a fraction of always asking the best model."""
    delta: Annotated[float, Field(gt=0, lt=1)] = 0.05
    """Chance that the bounds do not hold."""
    calibration_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """Share of the questions that calibrates; the others order the models."""

    def learn(self, data: RouteData, seed: int) -> Iterator[Learned]:
        """Yield the cascade.

        Raises:
            DataError: Costs or confidences are missing, one model is cheapest and best, or no
                cascade keeps the bounds.
        """
        halves = self._halves(data, seed)
        chain = _chain(data, halves)
        scores = data.scores[halves.rest][:, chain.models]
        assert data.confidence is not None
        sure = data.confidence[halves.rest][:, chain.models[:-1]]
        claims = _claims(chain, scores, sure, halves.weights)
        place = self._level(chain, claims, halves.num_questions)
        ranks = np.full(data.num_models, -1.0, np.float32)
        ranks[chain.models] = np.arange(len(chain.models))
        thresholds = np.zeros(data.num_models, np.float32)
        thresholds[chain.models[:-1]] = chain.thresholds(float(_LEVELS[place]))
        said = _said(claims, place, halves.num_questions)
        yield Learned(CascadeScores(ranks, thresholds), note=said)

    def _halves(self, data: RouteData, seed: int) -> _Halves:
        """Return which rows calibrate; all of a question's are on one side."""
        if data.cost is None or data.confidence is None:
            lost = "cost" if data.cost is None else "confidence"
            raise DataError(
                f"The records say no {lost}, which a cascade goes by; give "
                f'"{lost}": {{MODEL: number}} in each, as treadle route prepare does.'
            )
        known = np.flatnonzero(
            np.isfinite(data.scores).all(axis=1) & np.isfinite(data.cost).all(axis=1)
        )
        keys = np.arange(len(data.scores)) if data.keys is None else np.asarray(data.keys)
        questions, asks = np.unique(keys[known], return_inverse=True)
        order = numpy_stream(seed, "cascade halves").permutation(len(questions))
        count = round(len(order) * self.calibration_fraction)
        if not 0 < count < len(order):
            raise DataError(
                f"{len(order)} questions have the scores and costs of all models, which are too "
                f"few to order models by some and calibrate on others; give more."
            )
        does_calibrate = np.isin(asks, order[:count])
        rows = np.bincount(asks)[asks[does_calibrate]]
        return _Halves(known[does_calibrate], known[~does_calibrate], 1 / (rows * count), count)

    def _level(self, chain: _Chain, claims: _Claims, count: int) -> int:
        """Return the place of the level that is claimed.

        Raises:
            DataError: None keeps the bounds.
        """
        max_loss = self.max_loss
        if max_loss is None and self.max_cost is None:
            max_loss = _USUAL_LOSS
        share = self.delta / 2 if self.max_loss is not None and self.max_cost is not None else 1.0
        level = share if share < 1 else self.delta
        last = len(_LEVELS) - 1
        highest, lowest = last, 0
        if self.max_cost is not None:
            highest = _affordable(chain, claims, count, self.max_cost, level)
        if max_loss is not None:
            # At 1 nothing is lost by construction, so that it needs no test.
            means = claims.loss[last - 1 :: -1].tolist()
            lowest = last - certified(means, count, max_loss, level)
            if lowest > highest:
                raise DataError(
                    f"No cascade is known to lose at most {max_loss:g} and to cost at most "
                    f"{self.max_cost:g} of the best model's; raise one of the bounds, or give more "
                    f"questions than {count} to calibrate on."
                )
            return lowest
        return highest


def _chain(data: RouteData, halves: _Halves) -> _Chain:
    """Return the models in their order, as the one half settles it."""
    assert data.cost is not None
    assert data.confidence is not None
    first, known = halves.first, [*halves.first, *halves.rest]
    cost = data.cost[first].mean(axis=0)
    models = ladder(cost, data.scores[first].mean(axis=0))
    told = data.confidence[:, models[:-1]]
    if not np.isfinite(told[known]).all():
        raise DataError(
            "The records do not say the confidence of all models that would be asked before the "
            "best one; leave those out that have none."
        )
    return _Chain(models, cost[models], told[first])


def _claims(chain: _Chain, scores: Doubles, sure: Doubles, weights: Doubles) -> _Claims:
    """Return the mean loss and cost of every level on the calibration questions."""
    rows, last = np.arange(len(scores)), len(chain.models) - 1
    loss, cost, answered = [], [], []
    for level in _LEVELS:
        thresholds = chain.thresholds(float(level))
        is_asked = np.append(thresholds < _NEVER, True)
        asked = np.cumsum(chain.cost * is_asked) / chain.cost[-1]
        is_sure = sure >= thresholds
        who = np.where(is_sure.any(axis=1), is_sure.argmax(axis=1), last)
        loss.append(weights @ np.maximum(scores[:, -1] - scores[rows, who], 0))
        cost.append(weights @ asked[who])
        answered.append(np.asarray([weights[who == turn].sum() for turn in range(last + 1)]))
    return _Claims(np.asarray(loss), np.asarray(cost), answered)


def _affordable(chain: _Chain, claims: _Claims, count: int, most: float, level: float) -> int:
    """Return the place of the highest level whose costs keep the bound.

    Raises:
        DataError: The first model alone costs more.
    """
    asked = np.cumsum(chain.cost) / chain.cost[-1]
    if most < asked[0]:
        raise DataError(
            f"The cheapest model alone costs {asked[0]:.3g} of the best one, and max_cost is "
            f"{most:g}; raise it."
        )
    if most >= 1:
        # At 1 the last model is asked alone, at its own cost, so that it needs no test, either.
        return len(_LEVELS) - 1
    span = asked[-1] - asked[0]
    # At 0 the first model answers all, at its own cost, so that it needs no test.
    means = ((claims.cost[1:] - asked[0]) / span).clip(0, 1).tolist()
    return certified(means, count, float((most - asked[0]) / span), level)


def _said(claims: _Claims, place: int, count: int) -> str:
    shares = ", ".join(f"{share:.3f}" for share in claims.answered[place])
    said = (
        f"Calibrated on {count} questions: from the cheapest model on, {shares} of them are "
        f"answered by each; {claims.loss[place]:.4f} of a score is lost against the best model, at "
        f"{claims.cost[place]:.3f} of its cost."
    )
    if claims.cost[place] < 1 - _ROUNDING:
        return said
    return (
        f"{said} That is no cheaper than the best model alone; serve that one, or raise max_loss, "
        f"or give more questions."
    )
