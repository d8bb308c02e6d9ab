"""What follows from the evidence: sparsities, a threshold, the form of the output."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from treadle.core import keep
from treadle.core.checkpoint import PlannedTensor
from treadle.model.blockwise import View, parts_of, read_matrices
from treadle.model.resize.widths import Pick, picks, resized_config
from treadle.shrink.prune.base import Statistics
from treadle.shrink.prune.blocks import BlockPruner, axes_of
from treadle.shrink.prune.evidence import Evidence
from treadle.shrink.prune.global_threshold import GlobalThreshold, find_threshold
from treadle.shrink.prune.request import PruneRequest
from treadle.shrink.prune.shrinking import num_kept
from treadle.shrink.prune.subject import PrunedModel

if TYPE_CHECKING:
    import torch

__all__ = ["Decisions", "decide"]


class Decisions(NamedTuple):
    """What the walk over the blocks carries out."""

    sparsities: list[float]
    """Block by block."""
    threshold: GlobalThreshold | None
    """Where the pattern compares all blocks."""
    config: dict[str, Any]  # Any: JSON values
    """Of the output."""
    planned: list[PlannedTensor]


def decide(request: PruneRequest, subject: PrunedModel, evidence: Evidence) -> Decisions:
    """Share out the sparsity, find the threshold, and plan the output."""
    sparsities = _sparsities(request, subject, evidence)
    threshold = _threshold(request, subject, evidence)
    config, planned_picks = _config_and_picks(request, subject, sparsities)
    return Decisions(sparsities, threshold, config, _planned(subject, planned_picks))


def _sparsities(request: PruneRequest, subject: PrunedModel, evidence: Evidence) -> list[float]:
    def blocks() -> "Iterator[list[tuple[torch.Tensor, Statistics]]]":
        for layer, matrices in enumerate(subject.layers):
            if not request.allocation.needs or evidence.dense is None:
                yield []
                continue
            known = evidence.dense.block(layer)
            weights = read_matrices(subject.reader, matrices)
            yield [(weights[m.name], Statistics(known[m.input])) for m in matrices]

    return request.allocation.allocate(blocks(), request.sparsity)


def _threshold(
    request: PruneRequest, subject: PrunedModel, evidence: Evidence
) -> GlobalThreshold | None:
    if request.pattern.kind != "global":
        return None
    choice = axes_of(request)

    def pruner(view: View) -> BlockPruner:
        return BlockPruner(choice, 0.0, view, subject.reader, gradients=evidence.gradients)

    def scores() -> "Iterator[tuple[str, torch.Tensor]]":
        for layer, matrices in enumerate(subject.layers):
            known = evidence.dense.block(layer) if evidence.dense else {}
            for part, view in parts_of(subject.reader, matrices):
                for matrix in part:
                    scorer = pruner(view)
                    yield matrix.name, scorer.score(matrix, scorer.statistics(matrix, known))

    return find_threshold(scores, lambda total: keep.num_pruned(total, request.sparsity))


def _config_and_picks(
    request: PruneRequest, subject: PrunedModel, sparsities: list[float]
) -> tuple[dict[str, Any], dict[str, Pick]]:  # Any: JSON values
    """Return the config of the output and how its tensors will be cut.

    Counts matter here, not which indices.
    """
    pattern = request.pattern
    if not pattern.is_structured:
        return subject.reader.config, {}
    kept = [
        [(coupling, num_kept(coupling, sparsity)) for coupling in subject.couplings(pattern, layer)]
        for layer, sparsity in enumerate(sparsities)
    ]
    config = resized_config(pattern.kind, subject.reader.config, kept, request.allow_nonuniform)
    flat = [(coupling, range(count)) for block in kept for coupling, count in block]
    return config, picks(flat, subject.shapes)


def _planned(subject: PrunedModel, planned_picks: dict[str, Pick]) -> list[PlannedTensor]:
    planned = []
    for name, info in subject.reader.tensors.items():
        if name in subject.reader.tied:
            continue
        shape = list(info.shape)
        if pick := planned_picks.get(name):
            shape[pick.axis] = pick.size
        planned.append(PlannedTensor(name, info.dtype, tuple(shape)))
    return planned
