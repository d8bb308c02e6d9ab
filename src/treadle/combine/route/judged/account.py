"""The account of a router on test questions."""

import math
from collections.abc import Sequence

import numpy as np

from treadle.combine.route.judged.frontier import (
    PricePoint,
    arena,
    average_quality,
    hull,
    swept,
)
from treadle.combine.route.judged.subsets import Subset
from treadle.combine.route.judged.tally import Routed, Tally, tally
from treadle.combine.route.records import Doubles
from treadle.core.errors import DataError, SettingsError
from treadle.core.intervals import bootstrap_mean
from treadle.core.result import (
    Column,
    Comparison,
    Entry,
    Figure,
    Measurement,
    Result,
    Series,
    Table,
)
from treadle.core.run import Recording
from treadle.runtime.routed.queries.record import RouterRecord

__all__ = ["account_for", "account_for_baseline", "account_for_costs"]

_PER_QUERIES = 1000.0


def account_for(run: Recording, subsets: Sequence[Subset], leaked: Sequence[int]) -> None:
    """Note the figures of every set of questions, those of each task, and who is chosen.

    Args:
        run: Takes measurements, figures, tables and notes.
        subsets: All questions first.
        leaked: Places of the test questions that are training questions.
    """
    routed, name = subsets[0].routed, str(run.settings["method"])
    tallies = [tally(one.routed, run.seed) for one in subsets]
    for subset, found in zip(subsets, tallies, strict=True):
        run.measurements += _measured(found, subset.key)
    run.measurements += [
        Measurement(name="questions", value=len(routed.choice)),
        Measurement(name="leaked", value=len(leaked), note="test questions that were trained on"),
    ]
    run.tables.append(_sets(subsets, tallies, name))
    if routed.table.tasks is not None:
        run.tables.append(_tasks(routed, run.seed, name))
    run.figures += [_intervals(subsets, tallies, name), _shares(routed, name)]
    run.notes += _said(routed, tallies[0], len(leaked))


def account_for_baseline(
    run: Recording, values: Sequence[float], reference: Result, baseline: str
) -> None:
    """Note by how much the router differs from another one, question by question.

    Raises:
        DataError: The other result is not of this action.
        SettingsError: It is of another test.
    """
    assert run.protocol is not None
    if reference.command != "route evaluate":
        raise DataError(
            f"'{baseline}' is a result of '{reference.command}', not of route evaluate; give one "
            f"of another router."
        )
    before = reference.samples.get("score", [])
    is_same = (reference.protocol or {}).get("hash") == run.protocol["hash"]
    if not is_same or len(before) != len(values):
        raise SettingsError(
            f"The baseline '{baseline}' was measured on another test; evaluate both routers on the "
            f"same file, with the same tasks binarised."
        )
    won = [a - b for a, b in zip(values, before, strict=True)]
    low, high = bootstrap_mean(won, run.seed)
    run.measurements.append(
        Measurement(
            name="baseline_difference",
            value=math.fsum(won) / len(won),
            low=low,
            high=high,
            better="higher",
            comparison=Comparison(score="score", neutral=0.0, baseline=reference.fingerprint),
            note=f"to the router '{reference.settings.get('method', '')}', paired by question",
        )
    )


def account_for_costs(
    run: Recording, routed: Routed, expected: Doubles, record: RouterRecord
) -> None:
    """Note what the answers cost, and what quality other costs would buy.

    Args:
        run: Takes measurements and a figure; nothing where the test says no costs.
        routed: All questions.
        expected: What the router says of each model [questions, models].
        record: Says what models usually cost.
    """
    table = routed.table
    if table.cost is None or np.isnan(table.cost).any():
        return
    usual = table.cost.mean(axis=0)
    if record.cost is not None:
        usual = np.asarray([record.cost[name] for name in table.models])
    cost = float(table.cost[np.arange(len(routed.choice)), routed.choice].mean())
    singles = [
        PricePoint(float(c), float(q))
        for c, q in zip(table.cost.mean(axis=0), table.scores.mean(axis=0), strict=True)
    ]
    points = swept(expected, usual, table.cost, table.scores)
    dearest = max(one.cost for one in [*singles, *points])
    quality = float(routed.values.mean())
    run.measurements += [
        Measurement(name="cost", value=cost, better="lower", note="mean of an answer"),
        Measurement(
            name="aiq",
            value=average_quality(points, dearest),
            better="higher",
            note="mean quality of the router's hull over costs up to the dearest model's",
        ),
        Measurement(
            name="aiq_of_single_models",
            value=average_quality(singles, dearest),
            note="of random mixtures of single models",
        ),
        Measurement(
            name="arena",
            value=arena(quality, _PER_QUERIES * cost),
            better="higher",
            note="RouterArena's score, where costs are dollars",
        ),
    ]
    run.figures.append(_frontier(points, singles, table.models, record.method))


def _measured(found: Tally, key: str) -> list[Measurement]:
    told: list[tuple[str, float | None, str]] = [
        ("best_single", found.single, "the model that is best on the training questions"),
        ("best_single_hindsight", found.hindsight, f"{found.hindsight_model}, best on the test"),
        ("random", found.random, "the mean of all scores"),
        ("task_oracle", found.task_oracle, "the best model of each task of the test"),
        ("query_oracle", found.query_oracle, "the best model of each question"),
        ("within_task_gain", found.within_task_gain, "score - task_oracle"),
        ("macro_score", found.macro, "mean over tasks"),
    ]
    low, high = found.interval
    score = Measurement(name=f"score{key}", value=found.score, low=low, high=high, better="higher")
    plain = [
        Measurement(name=f"{name}{key}", value=value, note=note)
        for name, value, note in told
        if value is not None
    ]
    if found.difference is None or found.difference_interval is None:
        return [score, *plain]
    low, high = found.difference_interval
    difference = Measurement(
        name=f"difference{key}",
        value=found.difference,
        low=low,
        high=high,
        better="higher",
        comparison=Comparison(score=f"score{key}", neutral=0.0, baseline=f"best_single{key}"),
        note="to the model that is best on the training questions, paired by question",
    )
    return [score, difference, *plain]


def _sets(subsets: Sequence[Subset], tallies: Sequence[Tally], name: str) -> Table:
    """Return who gets what of each set of questions."""
    columns = [Column(name="who chooses")]
    columns += [Column(name=one.title, unit="score", better="higher") for one in subsets]
    rows = [
        [Entry(value="any model"), *(Entry(value=one.random) for one in tallies)],
        [Entry(value="best single model"), *(Entry(value=one.single) for one in tallies)],
        [
            Entry(value="best single model of the test"),
            *(Entry(value=one.hindsight, note=one.hindsight_model) for one in tallies),
        ],
        [
            Entry(value=f"router {name}"),
            *(
                Entry(value=one.score, low=one.interval.low, high=one.interval.high)
                for one in tallies
            ),
        ],
        [Entry(value="task oracle"), *(Entry(value=one.task_oracle) for one in tallies)],
        [Entry(value="query oracle"), *(Entry(value=one.query_oracle) for one in tallies)],
    ]
    rows = [row for row in rows if row[1].value is not None]
    counts = ", ".join(
        f"{one.num_questions} ({subset.title})"
        for subset, one in zip(subsets, tallies, strict=True)
    )
    is_loss = any(one.difference is not None and one.difference < 0 for one in tallies)
    return Table(
        title=f"Router {name} beside single models and oracles, with 95 % intervals",
        columns=columns,
        rows=rows,
        notes=[
            f"Questions: {counts}. Best single model: the one that is best on the training "
            f"questions. Oracles, and the best single model of the test, look at the test. "
            f"Intervals are bootstrapped over questions."
        ],
        losses=[f"router {name}"] if is_loss else [],
    )


def _tasks(routed: Routed, seed: int, name: str) -> Table:
    tasks = routed.table.tasks or ()
    names = ["random", "best single", "best model of the task", "query oracle"]
    columns = [Column(name="task"), Column(name="questions"), Column(name="router")]
    columns += [Column(name=name) for name in names]
    rows, losses = [], []
    for task in dict.fromkeys(tasks):
        one = tally(routed.rows([n for n, own in enumerate(tasks) if own == task]), seed)
        low, high = one.interval
        plain = [one.random, one.single, one.hindsight, one.query_oracle]
        rows.append(
            [
                Entry(value=task),
                Entry(value=one.num_questions),
                Entry(value=one.score, low=low, high=high),
                *(Entry(value=value) for value in plain),
            ]
        )
        if one.single is not None and one.score < one.single:
            losses.append(task)
    return Table(title=f"Task by task: router {name}", columns=columns, rows=rows, losses=losses)


def _intervals(subsets: Sequence[Subset], tallies: Sequence[Tally], name: str) -> Figure:
    series = []
    for subset, one in zip(subsets, tallies, strict=True):
        if one.difference is not None and one.difference_interval is not None:
            low, high = one.difference_interval
            series.append(
                Series(
                    name=subset.title, x=[subset.title], y=[one.difference], low=[low], high=[high]
                )
            )
    return Figure(
        kind="interval",
        title=f"Router {name} less the best single model, with 95 % intervals",
        x_label="questions",
        y_label="difference of scores",
        series=series,
    )


def _shares(routed: Routed, name: str) -> Figure:
    counts = np.bincount(routed.choice, minlength=len(routed.table.models))
    shares = (counts / len(routed.choice)).tolist()
    return Figure(
        kind="bar",
        title=f"Who answers by {name}: share of the test questions",
        x_label="model",
        y_label="share",
        series=[Series(name="router", x=list(routed.table.models), y=shares)],
    )


def _frontier(
    points: Sequence[PricePoint], singles: Sequence[PricePoint], names: Sequence[str], method: str
) -> Figure:
    corners = hull(points)
    series = [Series(name="router", x=[p.cost for p in corners], y=[p.quality for p in corners])]
    series += [
        Series(name=name, x=[one.cost], y=[one.quality])
        for name, one in zip(names, singles, strict=True)
    ]
    return Figure(
        kind="scatter",
        title=f"Quality against cost: the hull of router {method}, and single models",
        x_label="cost of an answer",
        y_label="score",
        series=series,
    )


def _said(routed: Routed, found: Tally, num_leaked: int) -> list[str]:
    notes = []
    if num_leaked:
        notes.append(
            f"{num_leaked} of {found.num_questions} test questions are training questions; every "
            f"figure stands beside the one without them."
        )
    if routed.table.tasks is None:
        notes.append("The test names no tasks, so there is neither a task oracle nor its gain.")
    interval = found.difference_interval
    if interval is not None and interval.low <= 0:
        notes.append(
            f"The router does not beat the best single model beyond the interval "
            f"({found.difference:+.4f}, {interval.low:+.4f} to {interval.high:+.4f})."
        )
    return notes
