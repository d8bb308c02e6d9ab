"""What the result of prepare says: who is good at what, and at which cost."""

from collections.abc import Mapping, Sequence

import numpy as np

from treadle.combine.route.prepare.base import Side
from treadle.combine.route.prepare.records import Records, TokenPrices
from treadle.combine.route.prepare.scores import PoolScore
from treadle.core.result import Column, Entry, Figure, Measurement, Series, Table
from treadle.core.run import Recording

__all__ = ["account_for"]


def account_for(
    run: Recording, records: Records, counts: Mapping[Side, int], prices: TokenPrices
) -> None:
    """Note the models' scores over all splits, what they cost, and what was left out."""
    names = list(records.scored[0])
    scores = np.asarray([[row[name].score for name in names] for row in records.scored])
    run.measurements += [
        Measurement(name=f"questions in {side}", value=count, unit="questions")
        for side, count in counts.items()
    ]
    means = scores.mean(axis=0)
    run.measurements += [
        Measurement(name=f"score of {name}", value=float(mean), better="higher")
        for name, mean in zip(names, means, strict=True)
    ]
    best = float(scores.max(axis=1).mean())
    note = "the best model of each question: no router gets beyond"
    run.measurements.append(
        Measurement(name="score of the query oracle", value=best, better="higher", note=note)
    )
    run.tables.append(_table(records, names, prices))
    run.figures.append(_figure(records, names))
    if records.num_dropped:
        run.notes.append(
            f"{records.num_dropped} questions that not every model has a score of are left out."
        )
    if unknown := [name for name in names if _mean(_costs(records, name, prices)) is None]:
        run.notes.append(
            f"The cost of {', '.join(unknown)} is not known; give --prices to have it in the "
            f"records."
        )
    if prices.of:
        run.notes.append(f"Costs are {prices.unit}.")


def _table(records: Records, names: Sequence[str], prices: TokenPrices) -> Table:
    columns = [
        Column(name="model"),
        Column(name="score", better="higher"),
        Column(name="confidence"),
        Column(name="cost", better="lower"),
        Column(name="seconds", better="lower"),
    ]
    rows = []
    for name in names:
        own = [row[name] for row in records.scored]
        values = (
            _mean([one.score for one in own]),
            _mean([one.confidence for one in own]),
            _mean(_costs(records, name, prices)),
            _mean([one.seconds for one in own]),
        )
        rows.append([Entry(value=name), *(Entry(value=value) for value in values)])
    notes = ["Means over all questions; seconds until all samples of a question were there."]
    return Table(title="Models of the pool", columns=columns, rows=rows, notes=notes)


def _figure(records: Records, names: Sequence[str]) -> Figure:
    by_task: dict[str, list[dict[str, PoolScore]]] = {}
    for posed, row in zip(records.posed, records.scored, strict=True):
        by_task.setdefault(posed.task, []).append(row)
    tasks: list[float | str] = list(by_task)
    series = [
        Series(
            name=name,
            x=tasks,
            y=[float(np.mean([row[name].score for row in rows])) for rows in by_task.values()],
        )
        for name in names
    ]
    return Figure(
        kind="heatmap",
        title="Who is good at what",
        x_label="task",
        y_label="model",
        series=series,
    )


def _costs(records: Records, name: str, prices: TokenPrices) -> list[float | None]:
    return [prices.cost(name, row[name]) for row in records.scored]


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None
