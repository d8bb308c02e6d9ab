"""The account of a router in the making: its steps, and what it is worth before any test."""

import numpy as np

from treadle.combine.route.objective import Rates
from treadle.combine.route.records import Doubles
from treadle.combine.route.split import Sides
from treadle.combine.route.training import RouteTraining
from treadle.core.intervals import bootstrap_mean
from treadle.core.result import Comparison, Figure, Measurement, Series
from treadle.core.run import Recording
from treadle.runtime.routed.queries.record import RouterRecord

__all__ = ["account_for"]


def account_for(
    run: Recording, sides: Sides, rates: Rates, learned: RouteTraining, record: RouterRecord
) -> None:
    """Note what the router is worth on the questions that were held out, or else on its own.

    Args:
        run: Takes measurements, figures and notes.
        sides: The questions.
        rates: What is taken off a score.
        learned: The steps.
        record: What the router says of itself.
    """
    is_held = bool(sides.dev.ids)
    side, values = ("dev", learned.dev_values) if is_held else ("train", learned.train_values)
    worth = rates.worth(sides.dev if is_held else sides.train)
    single = worth[:, record.models.index(record.best_single)]
    unit = "score" if rates == Rates(0.0, 0.0) else "score less cost and latency"
    run.measurements += [
        _mean(f"{side}_score", values, unit, run.seed),
        _mean(f"{side}_best_single", single, unit, run.seed, record.best_single),
        _difference(side, values, single, unit, run.seed),
        Measurement(
            name=f"{side}_query_oracle",
            value=float(np.nanmax(worth, axis=1).mean()),
            unit=unit,
            note="the best model of each question",
        ),
        Measurement(name="train_questions", value=len(sides.train.ids)),
        Measurement(name="dev_questions", value=len(sides.dev.ids)),
    ]
    if len(learned.steps) > 1:
        run.figures += _curves(learned, run.method)
    missing = int(np.isnan(sides.train.scores).sum())
    if missing:
        run.notes.append(
            f"{missing} of {sides.train.scores.size} scores are not there: those pairs of question "
            f"and model were left out."
        )
    if side == "dev":
        run.notes.append(
            "Methods and settings that are compared by dev_score were chosen on these questions; "
            "claim on others, by treadle route evaluate."
        )


def _mean(name: str, values: Doubles, unit: str, seed: int, note: str = "") -> Measurement:
    known = values[np.isfinite(values)]
    if not len(known):
        return Measurement(name=name, value=0.0, unit=unit, note="no question was asked of it")
    low, high = bootstrap_mean(known.tolist(), seed)
    return Measurement(
        name=name,
        value=float(known.mean()),
        unit=unit,
        low=low,
        high=high,
        better="higher",
        note=note,
    )


def _difference(side: str, values: Doubles, single: Doubles, unit: str, seed: int) -> Measurement:
    """Return what is won over the best single model, question by question."""
    both = np.isfinite(values) & np.isfinite(single)
    won = (values - single)[both]
    low, high = bootstrap_mean(won.tolist(), seed) if len(won) else (0.0, 0.0)
    return Measurement(
        name=f"{side}_difference",
        value=float(won.mean()) if len(won) else 0.0,
        unit=unit,
        low=low,
        high=high,
        better="higher",
        comparison=Comparison(score=f"{side}_score", neutral=0.0, baseline=f"{side}_best_single"),
        note="to the model that is best on the training questions",
    )


def _curves(learned: RouteTraining, name: str) -> list[Figure]:
    steps = [float(one.step) for one in learned.steps]
    series = [Series(name="training", x=list(steps), y=[one.train for one in learned.steps])]
    dev = [one.dev for one in learned.steps if one.dev is not None]
    if len(dev) == len(steps):
        series.append(Series(name="development", x=list(steps), y=dev))
    found = [
        Figure(
            kind="line",
            title=f"What the router is worth, step by step: {name}",
            x_label="step",
            y_label="worth",
            series=series,
        )
    ]
    losses = [one.loss for one in learned.steps if one.loss is not None]
    if len(losses) == len(steps):
        found.append(
            Figure(
                kind="line",
                title=f"What training minimises: {name}",
                x_label="step",
                y_label="loss",
                series=[Series(name="loss", x=list(steps), y=losses)],
            )
        )
    return found
