"""The account of a bundle: conflict by layer, bytes, and how its router does on unseen items."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from treadle.combine.merge.conflict.measures import LayerConflict
from treadle.combine.merge.conflict.router import Fitted
from treadle.combine.merge.glue.items import Items
from treadle.core.checkpoint import CheckpointReader
from treadle.core.checkpoint.layered import expert_file
from treadle.core.intervals import wilson
from treadle.core.result import Column, Entry, Figure, Measurement, Series, Table, digest
from treadle.core.run import Recording
from treadle.core.sizes import spoken
from treadle.model import facts
from treadle.runtime.native_step.names import BUNDLED

__all__ = ["account_for_layers", "account_for_router"]

_MEASURES = ("conflict", "share in conflict", "cancelled", "apartness")


def account_for_layers(
    run: Recording,
    measured: Sequence[LayerConflict],
    routed: Sequence[LayerConflict],
    names: Sequence[str],
    dense: CheckpointReader,
    made: Path,
) -> None:
    """Note every layer's conflict, which are kept, and what that costs."""
    own_bytes = sum(expert_file(made, name).stat().st_size for name in names)
    run.bytes |= {
        "dense": dense.num_bytes,
        "experts": own_bytes,
        "output": dense.num_bytes + own_bytes,
        "models apart": len(names) * dense.num_bytes,
    }
    run.measurements += [
        Measurement(name="routed_layers", value=len(routed), unit=f"of {len(measured)} layers"),
        Measurement(
            name="bytes_of_models_apart",
            value=run.bytes["output"] / run.bytes["models apart"],
            unit="x",
            better="lower",
            note="the bundle's bytes over those of all models",
        ),
    ]
    kept = {one.layer for one in routed}
    layers: list[float | str] = [one.layer for one in measured]
    rows = [[one.conflict, one.share_in_conflict, one.cancelled, one.apartness] for one in measured]
    run.tables.append(
        Table(
            title="Conflict by layer",
            columns=[Column(name=one) for one in ("layer", *_MEASURES, "experts keep it")],
            rows=[
                [
                    Entry(value=one.layer),
                    *(Entry(value=value) for value in row),
                    Entry(value="yes" if one.layer in kept else "no"),
                ]
                for one, row in zip(measured, rows, strict=True)
            ],
            notes=[
                "conflict: of the numbers that two models or more change most, the share that they "
                "move both ways; share in conflict: the same of all numbers; cancelled: what "
                "summing loses of all changes; apartness: mean (1 - cosine) / 2 of task vectors."
            ],
        )
    )
    run.figures.append(
        Figure(
            kind="heatmap",
            title="How far models pull apart, layer by layer",
            x_label="layer",
            y_label="measure",
            series=[
                Series(name=name, x=layers, y=[float(row[place]) for row in rows])
                for place, name in enumerate(_MEASURES)
            ],
        )
    )
    kind = facts.base_config(dense.config).get("model_type")
    if kind not in BUNDLED:
        run.notes.append(
            f"Experts beside a model answer in the native step, which adds them to "
            f"{', '.join(BUNDLED)}, and not {kind}: LLM and serve refuse this bundle, and "
            f"treadle merge materialise makes plain models of it."
        )
    listed = ", ".join(one.layer for one in routed) or "none"
    run.notes.append(
        f"Experts keep {len(routed)} of {len(measured)} layers ({listed}): "
        f"{spoken(run.bytes['output'])} in all, where the models apart have "
        f"{spoken(run.bytes['models apart'])}."
    )


def account_for_router(
    run: Recording,
    found: Fitted,
    items: Items,
    names: Sequence[str],
    losses: Sequence[Sequence[float]],
) -> None:
    """Note who owns what, and how the router does on prompts that it has not seen.

    Args:
        run: Takes all.
        found: The router.
        items: What it was made of, and what it is tried on.
        names: Of the experts.
        losses: [test sets][experts] mean loss of each expert.
    """
    hashes = {one.name: one.content_hash for one in items.test}
    run.protocol = {"task": "who answers", "data": hashes, "hash": digest(hashes)[:16]}
    experts: list[float | str] = list(names)
    owned = ", ".join(
        f"{one.name} is {names[owner]}'s"
        for one, owner in zip(items.dev, found.owners, strict=True)
    )
    run.notes.append(f"The router knows {len(found.owners)} kinds of prompts: {owned}.")
    idle = [name for place, name in enumerate(names) if place not in found.owners]
    if idle:
        run.notes.append(
            f"{', '.join(idle)}: best at none of these kinds, so that only requests that name it "
            f"(adapter), and mixtures for strangers, are answered with it."
        )
    right, alone, strangers, shares = [], [], 0, []
    for one, row in zip(items.test, losses, strict=True):
        texts = [item.prompt for item in one.items]
        given = found.router.shares(texts)
        best = int(np.argmin(row))
        right += [float(place == best) for place in given.argmax(axis=1)]
        alone += [float(row.max() == 1) for row in given]
        strangers += sum(found.router.strangers(texts))
        shares.append(given.mean(axis=0))
    low, high = wilson(right)
    run.measurements += [
        Measurement(
            name="router_right",
            value=float(np.mean(right)),
            low=low,
            high=high,
            better="higher",
            note="share of test items whose largest part goes to the expert that is best at their "
            "kind there",
        ),
        Measurement(
            name="answered_alone",
            value=float(np.mean(alone)),
            note="share of test items that one expert answers without the others",
        ),
        Measurement(
            name="strangers",
            value=strangers / len(right),
            better="lower",
            note="share of test items that the router holds for no known kind",
        ),
    ]
    run.figures += [
        Figure(
            kind="heatmap",
            title="What each expert loses on items that the router did not see: nats an answer",
            x_label="expert",
            y_label="items",
            series=[
                Series(name=one.name, x=experts, y=list(row))
                for one, row in zip(items.test, losses, strict=True)
            ],
        ),
        Figure(
            kind="heatmap",
            title="Who answers what: mean share of each expert in test items",
            x_label="expert",
            y_label="items",
            series=[
                Series(name=one.name, x=experts, y=[float(value) for value in row])
                for one, row in zip(items.test, shares, strict=True)
            ],
        ),
    ]
