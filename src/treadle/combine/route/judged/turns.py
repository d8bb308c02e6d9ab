"""The account of a cascade: who answers, what is lost, and what all that were asked cost."""

from collections.abc import Sequence

import numpy as np

from treadle.combine.route.judged.tally import Routed
from treadle.core.intervals import bootstrap_mean
from treadle.core.result import Column, Entry, Measurement, Table
from treadle.core.run import Recording
from treadle.runtime.routed.queries.scorers import CascadeScores

__all__ = ["account_for_turns"]


def account_for_turns(
    run: Recording, routed: Routed, scorer: CascadeScores, models: Sequence[str]
) -> None:
    """Note a cascade beside its models alone; costs where the test says them of all.

    Args:
        run: Takes measurements and a table.
        routed: All questions.
        scorer: The cascade of the models that are there.
        models: Of the router, in its order.
    """
    table = routed.table
    names = [models[place] for place in scorer.turns]
    places = [table.models.index(name) for name in names]
    turn = np.asarray([places.index(int(one)) for one in routed.choice])
    last = table.scores[:, places[-1]]
    loss = last - routed.values
    low, high = bootstrap_mean(loss.tolist(), run.seed)
    run.measurements.append(
        Measurement(
            name="loss",
            value=float(loss.mean()),
            low=low,
            high=high,
            better="lower",
            note=f"of score against always asking {names[-1]}",
        )
    )
    rows = [
        [
            Entry(value=name),
            Entry(value=float((turn == place).mean())),
            Entry(value=float(table.scores[:, places[place]].mean())),
            Entry(value=None if table.cost is None else float(table.cost[:, places[place]].mean())),
        ]
        for place, name in enumerate(names)
    ]
    cost = None
    if table.cost is not None and not np.isnan(table.cost[:, places]).any():
        paid = np.cumsum(table.cost[:, places], axis=1)
        cost = float(paid[np.arange(len(turn)), turn].mean())
        share = cost / float(table.cost[:, places[-1]].mean())
        run.measurements += [
            Measurement(name="cost", value=cost, better="lower", note="of all that are asked"),
            Measurement(
                name="cost_fraction",
                value=share,
                better="lower",
                note=f"of always asking {names[-1]}",
            ),
        ]
    rows.append(
        [
            Entry(value="the cascade"),
            Entry(value=1.0),
            Entry(value=float(routed.values.mean())),
            Entry(value=cost),
        ]
    )
    columns = [
        Column(name="model"),
        Column(name="share of answers"),
        Column(name="score", better="higher"),
        Column(name="cost", better="lower"),
    ]
    run.tables.append(Table(title="The cascade and its models", columns=columns, rows=rows))
