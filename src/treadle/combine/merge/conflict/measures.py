"""How much models pull apart, layer by layer, in one way through their weights."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from treadle.combine.merge.base import Chunk, Floats
from treadle.combine.merge.inputs.towers import Name, parse_name
from treadle.combine.merge.jobs import TensorJob
from treadle.combine.merge.maths.trimming import Trim, largest, limits
from treadle.core.progress import steps

__all__ = ["EMBEDDING", "HEAD", "LayerConflict", "conflicts", "labels_of"]

EMBEDDING, HEAD = "embedding", "head"
"""What stands before the layers, and behind them; a head that is the embedding goes with that."""


class LayerConflict(NamedTuple):
    """What the models' task vectors do in one layer."""

    layer: str
    tensors: tuple[str, ...]
    num_parameters: int
    num_active: int
    """Numbers that two models or more change, of those that each changes most."""
    num_conflicts: int
    """Those of them that models move in both directions."""
    sum_of_sums: float
    """Sum over all numbers of the magnitude of the sum of all changes."""
    sum_of_changes: float
    """The same of the magnitudes of all changes."""
    products: npt.NDArray[np.float64]
    """[models, models] of the task vectors."""

    @property
    def conflict(self) -> float:
        """Share of the active numbers that models move in both directions, 0..1."""
        return self.num_conflicts / self.num_active if self.num_active else 0.0

    @property
    def share_in_conflict(self) -> float:
        """The same, of all numbers."""
        return self.num_conflicts / self.num_parameters

    @property
    def cancelled(self) -> float:
        """Share of all changes that summing loses: 0 where all agree."""
        return 1 - self.sum_of_sums / self.sum_of_changes if self.sum_of_changes else 0.0

    def only(self, part: str) -> "LayerConflict":
        """Return the layer with those of its tensors that have `part` in their names."""
        return self._replace(tensors=tuple(name for name in self.tensors if part in name))

    @property
    def apartness(self) -> float:
        """Mean of (1 - cosine) / 2 over pairs of task vectors."""
        norms = np.sqrt(np.diag(self.products))
        scale = np.outer(norms, norms)
        cosines = np.divide(self.products, scale, out=np.zeros_like(scale), where=scale > 0)
        pairs = cosines[np.triu_indices(len(norms), 1)]
        return float(np.mean((1 - pairs) / 2)) if len(pairs) else 0.0


def labels_of(names: Sequence[str]) -> dict[str, str]:
    """Return the layer of each tensor: its number, with the tower where there are several."""
    parsed = {name: parse_name(name) for name in names}
    stems = {one.before for one in parsed.values() if one.layer is not None}
    return {name: _label(one, len(stems) > 1) for name, one in parsed.items()}


def _label(name: Name, has_towers: bool) -> str:
    if name.layer is None:
        return EMBEDDING if name.is_before_layers else HEAD
    return f"{name.before}{name.layer}" if has_towers else str(name.layer)


def conflicts(jobs: Sequence[TensorJob], kept_fraction: float) -> list[LayerConflict]:
    """Return every layer's conflict, in the order of the layers.

    Tensors are read in runs, and only sums are kept. Which changes are large is found first: of
    each tensor and model the share `kept_fraction` of largest magnitude counts, since the signs of
    what hardly changed are chance.

    Args:
        jobs: Tensors with their base.
        kept_fraction: Between 0 and 1.
    """
    labels = labels_of([job.inputs.name for job in jobs])
    found: dict[str, LayerConflict] = {}
    with steps("measure conflict", sum(job.planned.num_bytes for job in jobs)) as bar:
        for job in jobs:
            one = _of_tensor(job, labels[job.inputs.name], kept_fraction)
            before = found.get(one.layer)
            found[one.layer] = one if before is None else _added(before, one)
            bar.advance(job.planned.num_bytes)
    return [found[label] for label in _ordered(found)]


def _ordered(labels: "dict[str, LayerConflict]") -> Iterator[str]:
    """Yield labels in the order of the forward pass."""
    ends = {EMBEDDING: 0, HEAD: 2}
    numbered = {
        label: parse_name(f"{label}." if "." in label else f".{label}.") for label in labels
    }
    yield from sorted(
        labels, key=lambda one: (ends.get(one, 1), numbered[one].before, numbered[one].layer or 0)
    )


def _of_tensor(job: TensorJob, layer: str, kept_fraction: float) -> LayerConflict:
    site = job.inputs
    count = len(site.models)
    trim = Trim(limits(site, largest(site, [kept_fraction] * count)))
    products = np.zeros((count, count))
    sums = changes = 0.0
    num_active = num_conflicts = 0
    for chunk in site.chunks("elements"):
        deltas = _deltas(chunk)
        products += _products(deltas)
        sums += float(np.abs(deltas.sum(axis=0, dtype=np.float64)).sum())
        changes += float(np.abs(deltas).sum(dtype=np.float64))
        trim(deltas)
        up, down = (deltas > 0).sum(axis=0), (deltas < 0).sum(axis=0)
        num_active += int((up + down >= 2).sum())
        num_conflicts += int(((up > 0) & (down > 0)).sum())
    return LayerConflict(
        layer,
        (site.name,),
        site.num_elements,
        num_active,
        num_conflicts,
        sums,
        changes,
        products,
    )


def _deltas(chunk: Chunk) -> Floats:
    assert chunk.base is not None
    found: Floats = chunk.models - chunk.base
    return found


def _products(deltas: Floats) -> npt.NDArray[np.float64]:
    wide = deltas.astype(np.float64)
    found: npt.NDArray[np.float64] = wide @ wide.T
    return found


def _added(one: LayerConflict, other: LayerConflict) -> LayerConflict:
    return LayerConflict(
        one.layer,
        one.tensors + other.tensors,
        one.num_parameters + other.num_parameters,
        one.num_active + other.num_active,
        one.num_conflicts + other.num_conflicts,
        one.sum_of_sums + other.sum_of_sums,
        one.sum_of_changes + other.sum_of_changes,
        one.products + other.products,
    )
