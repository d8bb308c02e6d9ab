"""The account of a merge: what its result and its manifest say."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from treadle.combine.merge.base import Floats
from treadle.combine.merge.inputs.models import Model, Models
from treadle.combine.merge.jobs import TensorJob
from treadle.combine.merge.recipe.references import ModelRef
from treadle.core.checkpoint import CheckpointWriter, Manifest, Parent, side_file
from treadle.core.codec import count_zeros
from treadle.core.result import RESULT_FILE, Figure, Input, Measurement, Series
from treadle.core.run import Recording
from treadle.core.seed import stream_seed

if TYPE_CHECKING:
    from treadle.combine.merge.plan import MergePlan

__all__ = [
    "RECIPE_FILE",
    "account_for",
    "account_for_coefficients",
    "account_for_seed",
    "account_for_zeros",
    "inputs_of",
    "manifest_of",
]

_SAMPLE_ELEMENTS = 1 << 21
"""Weights that are merged with two seeds, at most, but for one tensor."""

_LOST = 0.01
"""Zeros that may be missing before it is said: shares of inputs are estimates."""
RECIPE_FILE = "mergekit_config.yml"
"""What mergekit calls the recipe in the folder of its output."""


def inputs_of(models: Sequence[Model], base: ModelRef | None) -> list[Input]:
    """Return the models as inputs of a result: the base under that name, the others numbered."""
    found: list[Input] = []
    number = 0
    for model in models:
        is_base = model.ref == base
        number += not is_base
        found.append(
            Input(
                name="base" if is_base else f"model {number}",
                path=str(model.ref),
                content_hash=model.content_hash,
                role="base" if is_base else "model",
            )
        )
    return found


def account_for(run: Recording, plan: "MergePlan", models: Models) -> None:
    """Note what was merged."""
    num_parameters = sum(one.num_elements for one in plan.planned)
    run.measurements += [
        Measurement(name="parameters", value=num_parameters, unit="numbers in the output"),
        Measurement(name="models", value=len(models.all()), unit="models read"),
    ]
    if plan.data is not None and plan.data.learned:
        data = plan.data
        account_for_coefficients(run, data.learned, data.names, data.num_windows)
    run.bytes |= {
        "input": sum(model.reader.num_bytes for model in models.all()),
        "output": sum(one.num_bytes for one in plan.planned),
    }


def account_for_zeros(run: Recording, plan: "MergePlan", writer: CheckpointWriter) -> None:
    """Note what became of the zeros of sparse inputs, where there are any."""
    jobs = [job for job in plan.jobs if job.zero_shares]
    if not jobs:
        return
    total = sum(job.inputs.num_elements for job in jobs)
    num_zeros = 0
    for job in jobs:
        num_zeros += count_zeros(writer.read(job.inputs.name))
        writer.release(job.inputs.name)
    kept = num_zeros / total
    matrices = f"{len(jobs)} {'matrix' if len(jobs) == 1 else 'matrices'}"
    run.measurements.append(
        Measurement(
            name="sparsity",
            value=kept,
            unit=f"of the weights in {matrices}",
            note="(those in which an input is sparse)",
        )
    )
    most = sum(max(job.zero_shares) * job.inputs.num_elements for job in jobs) / total
    if kept < most - _LOST:
        mend = (
            "the sparse inputs share no more"
            if jobs[0].keeps_zeros
            else "--keep-zeros (x-keep-zeros "
            "in a YAML recipe) keeps the zeros that all sparse inputs share"
        )
        run.notes.append(
            f"Merging lost zeros: in {matrices} about {most:.0%} of the sparsest input's weights "
            f"are zero, and {kept:.0%} of the output's; {mend}."
        )


def account_for_seed(run: Recording, plan: "MergePlan") -> None:
    """Note how much the draw matters, where there is one, from tensors merged with another seed."""
    sample = list(_sample([job for job in plan.jobs if job.method.draws]))
    between = change = 0.0
    for job in sample:
        apart, moved = _spread(job)
        between, change = between + apart, change + moved
    if not between:
        return
    spread = (between / change) ** 0.5
    num_elements = sum(job.inputs.num_elements for job in sample)
    tensors = f"{len(sample)} tensor{'s' * (len(sample) != 1)} of {num_elements} weights"
    run.measurements.append(
        Measurement(
            name="seed spread",
            value=spread,
            unit="of the change from the base",
            note=f"(distance between the merges of two seeds, over {tensors})",
        )
    )
    run.notes.append(
        f"What was dropped is a matter of chance: with the next seed the weights differ by "
        f"{spread:.0%} of their change from the base; judge the method by several seeds."
    )


def account_for_coefficients(
    run: Recording, learned: Mapping[str, Floats], names: list[str], num_windows: int
) -> None:
    """Draw the coefficients that were learned, and note what they did to the entropy.

    Windows differ in entropy more than it falls: passes over all of them are compared.
    """
    entropies = [float(value) for value in learned["entropies"]]
    rows = learned["coefficients"]
    layers = [*(f"layer {number}" for number in range(rows.shape[1] - 1)), "outside the layers"]
    series = [
        Series(name=name, x=list(layers), y=[float(value) for value in row])
        for name, row in zip(names, rows, strict=True)
    ]
    run.figures.append(
        Figure(
            kind="heatmap",
            title="Learned coefficients of the task vectors",
            x_label="layer",
            y_label="model",
            series=series,
        )
    )
    run.measurements += [
        Measurement(name=f"mean coefficient of {name}", value=float(row.mean()))
        for name, row in zip(names, rows, strict=True)
    ]
    if not entropies:
        return
    passes = {"first": entropies[:num_windows], "last": entropies[-num_windows:]}
    for name, part in passes.items() if len(entropies) >= 2 * num_windows else ():
        run.measurements.append(
            Measurement(
                name=f"entropy, {name} pass",
                value=float(np.mean(part)),
                unit="nats a token",
                note="(over all windows, each seen once, while the coefficients move)",
            )
        )
    run.figures.append(
        Figure(
            kind="line",
            title="Entropy of the merged model's predictions",
            x_label="step",
            y_label="nats a token",
            series=[Series(name="entropy", x=list(range(len(entropies))), y=entropies)],
        )
    )


def _sample(jobs: list[TensorJob]) -> Iterator[TensorJob]:
    """Yield tensors from anywhere in the model, the same ones each time: at least the smallest."""
    smallest = min((job.inputs.num_elements for job in jobs), default=0)
    left = max(_SAMPLE_ELEMENTS, smallest)
    for job in sorted(jobs, key=lambda job: stream_seed(0, job.inputs.name)):
        if job.inputs.num_elements <= left:
            left -= job.inputs.num_elements
            yield job


def _spread(job: TensorJob) -> tuple[float, float]:
    """Return the squared distances of a merge from that with the next seed, and from the base."""
    sites = job.inputs, job.inputs._replace(keys=job.other_keys)
    known = [job.method.measure(site) for site in sites]
    between = change = 0.0
    for own, other in zip(*(site.chunks(job.method.unit) for site in sites), strict=True):
        assert own.base is not None, "a method that draws must say base = 'required'"
        first = job.method.merge(own, sites[0], known[0]).astype(np.float64)
        second = job.method.merge(other, sites[1], known[1])
        between += float(np.square(first - second).sum())
        change += float(np.square(first - own.base).sum())
    return between, change


def manifest_of(run: Recording, models: Models) -> Manifest:
    """Return the output's manifest; it is published, so folders go by their names."""
    opened = models.all()
    parents = [Parent(name=_label(m.ref), content_hash=m.content_hash) for m in opened]
    labels = {str(model.ref): _label(model.ref) for model in opened}
    settings = dict(run.settings)
    files = [side_file("result", RESULT_FILE)]
    if settings.get("base") is not None:
        settings["base"] = labels[settings["base"]]
    if "recipe" in settings:
        settings["recipe"] = RECIPE_FILE
        files.append(side_file("recipe", RECIPE_FILE))
    return run.manifest(files, parents, settings)


def _label(ref: ModelRef) -> str:
    """Return a reference with folders by their names; hub ids and packaged models stay."""
    parts = [ref.path, *([ref.adapter] if ref.adapter else [])]
    return "+".join(Path(p).resolve().name if Path(p).is_dir() else p for p in parts)
