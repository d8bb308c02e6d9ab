"""The account of a search: clusters, what was dropped, weights, and scores with intervals."""

from collections.abc import Sequence

import numpy as np

from treadle.combine.merge.glue.found import ClusterChoice, ScoredMerge
from treadle.combine.merge.glue.items import Items
from treadle.combine.merge.glue.mixing import Expert, Mixture
from treadle.combine.merge.glue.trials import Losses, Objective, score_of
from treadle.core.intervals import bootstrap_mean_of_sets
from treadle.core.result import (
    Column,
    Comparison,
    Entry,
    Figure,
    Measurement,
    Series,
    Table,
    digest,
)
from treadle.core.run import Recording

__all__ = ["account_for"]

_UNITS = {"nats": "nats an answer", "probability": "1 - p of the answer"}


def account_for(
    run: Recording, found: Sequence[ClusterChoice], mixture: Mixture | None, items: Items
) -> None:
    """Note what was found: every claim is made on items that the search did not see.

    Args:
        run: Takes measurements, figures, tables and notes.
        found: Of each cluster.
        mixture: Of the clusters, where there is one.
        items: What was searched on, and what was claimed on.
    """
    objective = found[0].trials.settled.objective
    hashes = {one.name: one.content_hash for one in items.test}
    run.protocol = {"task": f"answers by {objective}", "data": hashes, "hash": digest(hashes)[:16]}
    best = min(found, key=lambda one: one.dev_score)
    single = min((one.best_single for one in found), key=lambda m: score_of(m.dev, objective))
    run.measurements += _measured(run.seed, best, single, mixture, objective)
    tried = sum(one.trials.num_tried for one in found)
    run.measurements.append(
        Measurement(name="trials", value=tried, note="merges that were computed in this run")
    )
    run.tables.append(_table(found, mixture, items, objective, run.seed))
    run.figures += [_weights(one) for one in found if one.trials.num_models > 1]
    run.figures += [_cosines(one) for one in found if one.trials.num_models > 1]
    if mixture is not None:
        run.figures.append(_shares(mixture, items))
    run.notes += [*_said(found, mixture), *_likelier(found, best)]


def _measured(
    seed: int,
    best: ClusterChoice,
    single: ScoredMerge,
    mixture: Mixture | None,
    objective: Objective,
) -> list[Measurement]:
    """Return the scores on both sides, and what is won over the best single model."""
    unit = _UNITS[objective]
    named: list[tuple[str, Sequence[Losses], Sequence[Losses]]] = [
        ("best_single", single.dev, single.test),
        ("best_merge", best.chosen.dev, best.chosen.test),
    ]
    if mixture is not None:
        named.append(("mixture", mixture.dev, mixture.test))
    found = []
    for name, dev, test in named:
        for side, losses in (("dev", dev), ("test", test)):
            low, high = _interval(losses, objective, seed)
            measured = Measurement(
                name=f"{name}_{side}",
                value=score_of(losses, objective),
                unit=unit,
                low=low,
                high=high,
                better="lower",
            )
            found.append(measured)
    return [
        *found,
        *(_won(name, test, single.test, objective, seed) for name, _, test in named[1:]),
    ]


def _won(
    name: str, losses: Sequence[Losses], others: Sequence[Losses], objective: Objective, seed: int
) -> Measurement:
    """Return by how much a score differs from the best single model's, item by item."""
    pairs = zip(_values(losses, objective), _values(others, objective), strict=True)
    differences = [a - b for a, b in pairs]
    low, high = _of_sets(differences, seed)
    return Measurement(
        name=f"{name}_difference",
        value=float(np.mean([one.mean() for one in differences])),
        unit=_UNITS[objective],
        low=low,
        high=high,
        better="lower",
        comparison=Comparison(score=f"{name}_test", neutral=0.0, baseline="best_single_test"),
        note="to the best single model, on test items",
    )


def _values(losses: Sequence[Losses], objective: Objective) -> list[Losses]:
    """Return what each item counts."""
    return [1 - np.exp(-one) if objective == "probability" else one for one in losses]


def _interval(losses: Sequence[Losses], objective: Objective, seed: int) -> tuple[float, float]:
    """Return the interval of the mean of sets, of which each counts alike."""
    return _of_sets(_values(losses, objective), seed)


def _of_sets(values: Sequence[Losses], seed: int) -> tuple[float, float]:
    low, high = bootstrap_mean_of_sets([one.tolist() for one in values], seed)
    return low, high


def _table(
    found: Sequence[ClusterChoice],
    mixture: Mixture | None,
    items: Items,
    objective: Objective,
    seed: int,
) -> Table:
    columns = [Column(name="model"), Column(name="cluster"), Column(name="dev", better="lower")]
    columns.append(Column(name="test", better="lower"))
    columns += [Column(name=one.name, better="lower") for one in items.test]
    rows, losses = [], []
    for number, one in enumerate(found, 1):
        measured = [*one.singles, *([] if one.mean is None else [one.mean])]
        if one.trials.num_models > 1:
            measured.append(one.chosen)
        for entry in measured:
            rows.append(_row(entry.name, str(number), entry.dev, entry.test, objective, seed))
    if mixture is not None:
        name = "mixture"
        rows.append(_row(name, "all", mixture.dev, mixture.test, objective, seed))
        rows.append(_row("best model of each item", "all", None, mixture.oracle, objective, seed))
        rows.append(_row("any model (control)", "all", None, mixture.random, objective, seed))
    single = min((one.best_single for one in found), key=lambda m: score_of(m.dev, objective))
    bound = score_of(single.test, objective)
    if mixture is not None and score_of(mixture.test, objective) > bound:
        losses.append("mixture")
    losses += [
        f"chosen of cluster {number}"
        for number, one in enumerate(found, 1)
        if one.trials.num_models > 1
        and score_of(one.chosen.test, objective) > score_of(one.best_single.test, objective)
    ]
    counts = ", ".join(f"{len(one.items)} of {one.name}" for one in items.test)
    return Table(
        title=f"Models and merges: {_UNITS[objective]}, with 95 % intervals",
        columns=columns,
        rows=rows,
        notes=[
            f"Claimed on {counts}; each set counts alike. Columns of sets are test items. "
            f"Intervals are bootstrapped over the items of each set."
        ],
        losses=losses,
    )


def _row(
    name: str,
    cluster: str,
    dev: Sequence[Losses] | None,
    test: Sequence[Losses],
    objective: Objective,
    seed: int,
) -> list[Entry]:
    low, high = _interval(test, objective, seed)
    searched = Entry() if dev is None else Entry(value=score_of(dev, objective))
    each = [Entry(value=score_of([one], objective)) for one in test]
    claimed = Entry(value=score_of(test, objective), low=low, high=high)
    return [Entry(value=name), Entry(value=cluster), searched, claimed, *each]


def _weights(one: ClusterChoice) -> Figure:
    rows = [
        Series(
            name="all layers" if len(one.chosen.weights) == 1 else f"group {group}",
            x=list(one.trials.names),
            y=[float(weight) for weight in row],
        )
        for group, row in enumerate(one.chosen.weights)
    ]
    return Figure(
        kind="bar" if len(rows) == 1 else "heatmap",
        title=f"Weights of the merge of {one.trials.name} and its kin",
        x_label="model",
        y_label="weight",
        series=rows,
    )


def _cosines(one: ClusterChoice) -> Figure:
    names: list[float | str] = list(one.trials.names)
    rows = [
        Series(name=name, x=names, y=[float(value) for value in row])
        for name, row in zip(one.trials.names, one.trials.alike, strict=True)
    ]
    title = f"Cosines of weights in the cluster of {one.trials.name}"
    return Figure(kind="heatmap", title=title, x_label="model", y_label="model", series=rows)


def _shares(mixture: Mixture, items: Items) -> Figure:
    names: list[float | str] = [one.name for one in mixture.experts]
    rows = [
        Series(name=one.name, x=names, y=shares)
        for one, shares in zip(items.test, mixture.shares, strict=True)
    ]
    title = "Who answers what: share of test items that the router sends to each model"
    return Figure(kind="heatmap", title=title, x_label="model", y_label="items", series=rows)


def _likelier(found: Sequence[ClusterChoice], best: ClusterChoice) -> list[str]:
    """Return a note where one model is right more often than the merge that loses least."""
    singles = [one for part in found for one in part.singles]
    single = min(singles, key=lambda one: score_of(one.test, "probability"))
    ours, theirs = (1 - score_of(one.test, "probability") for one in (best.chosen, single))
    if ours >= theirs:
        return []
    return [
        f"The chosen merge gives right answers a mean p of {ours:.3f}, and {single.name} alone "
        f"{theirs:.3f}, as nats count how far off wrong answers are. To search for p itself, "
        f"choose --objective probability."
    ]


def _said(found: Sequence[ClusterChoice], mixture: Mixture | None) -> list[str]:
    notes = []
    for number, one in enumerate(found, 1):
        names = ", ".join(one.trials.names)
        text = f"Cluster {number}: {names}."
        if one.trials.num_models > 1 and one.is_mergeable:
            pairs = zip(one.trials.names, one.chosen.weights.mean(axis=0), strict=True)
            kept = ", ".join(f"{weight:.3g} {name}" for name, weight in pairs if weight)
            text += f" Merged: {kept}."
            if one.dropped:
                text += f" Dropped, as they made it worse: {', '.join(one.dropped)}."
        notes.append(text)
    if mixture is not None:
        listed = "; ".join(_origin(one, found) for one in mixture.experts)
        notes.append(f"OUT is a bundle of {len(mixture.experts)} models and a router: {listed}.")
    return notes


def _origin(expert: Expert, found: Sequence[ClusterChoice]) -> str:
    number = next(place for place, part in enumerate(found, 1) if part is expert.part)
    if expert.merge is expert.part.chosen:
        return f"{expert.name} is what was merged in cluster {number}"
    return f"{expert.name} is {expert.merge.name} of cluster {number}, whole"
