"""Prune the matrices of one block, given the statistics of the input that they share."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from treadle.core import keep
from treadle.core.checkpoint import CheckpointReader
from treadle.core.errors import CheckpointError
from treadle.core.seed import torch_stream
from treadle.core.shapes import Float, Tensor
from treadle.model.belonging import shapes_of
from treadle.model.blockwise import Change, View, stored
from treadle.model.resize.widths import Coupling, picked, picks
from treadle.model.statistics import BlockStatistics
from treadle.shrink.prune.base import Metric, Statistics, Update
from treadle.shrink.prune.global_threshold import GlobalThreshold
from treadle.shrink.prune.patterns import Pattern, choose
from treadle.shrink.prune.request import PruneRequest
from treadle.shrink.prune.shrinking import group_scores, num_kept, touched

if TYPE_CHECKING:
    import torch

    from treadle.model.facts import Linear

__all__ = ["BlockPruner", "PruneAxes", "axes_of"]


class PruneAxes(NamedTuple):
    """What is the same for all blocks of a run."""

    metric: Metric
    pattern: Pattern
    update: Update
    seed: int
    keep_zeros: bool = False


def axes_of(request: PruneRequest) -> PruneAxes:
    """Return what a request says of all blocks."""
    return PruneAxes(
        request.metric, request.pattern, request.update, request.seed, request.keep_zeros
    )


class BlockPruner(Change):
    """Prunes one block, or a part of it, in place, and remembers which groups stayed."""

    def __init__(
        self,
        choice: PruneAxes,
        sparsity: float,
        view: View,
        reader: CheckpointReader,
        couplings: Sequence[Coupling] = (),
        gradients: Mapping[str, "torch.Tensor"] | None = None,
        threshold: GlobalThreshold | None = None,
    ) -> None:
        self.choice, self.sparsity, self.view, self.reader = choice, sparsity, view, reader
        self.couplings = {coupling.last.input: coupling for coupling in couplings}
        self.gradients = gradients or {}
        self.threshold = threshold
        self.kept: list[tuple[Coupling, list[int]]] = []

    def change(self, matrices: Sequence["Linear"], known: BlockStatistics) -> None:
        """Prune the `matrices` that read one input.

        A structured pattern waits for the input of its last matrix.
        """
        if self.choice.pattern.is_structured:
            if coupling := self.couplings.get(matrices[0].input):
                self._prune_coupling(coupling, known)
            return
        for matrix in matrices:
            self._prune_matrix(matrix, self.statistics(matrix, known))

    def written(self, matrices: Sequence["Linear"]) -> "Iterator[tuple[str, torch.Tensor]]":
        """Yield the tensors of `matrices`, without the rows and columns that went."""
        shapes = shapes_of(self.reader)
        removed = picks(self.kept, shapes)
        for name in touched(matrices, self.choice.pattern, shapes):
            values = stored(self.reader, name, matrices, self.view)
            yield name, picked(values, removed.get(name))

    def statistics(self, matrix: "Linear", statistics: BlockStatistics) -> Statistics:
        """Return what is known about one matrix."""
        return Statistics(statistics.get(matrix.input), self.gradients.get(matrix.name))

    def score(self, matrix: "Linear", statistics: Statistics) -> Float[Tensor, "out in"]:
        """Return the metric's scores of `matrix`.

        Raises:
            CheckpointError: They contain NaN, because the weights or the calibration do.
        """
        weight = self.view(matrix)
        generator = torch_stream(self.choice.seed, f"prune.{matrix.name}")
        score = self.choice.metric.score(weight, statistics, generator)
        if bool(score.isnan().any()):
            raise CheckpointError(
                f"Metric '{self.choice.metric.name}' gives NaN for tensor '{matrix.tensor}'; its "
                f"weights or the "
                f"activations before it are not finite. Check the checkpoint, or calibrate on "
                f"other text."
            )
        if self.choice.keep_zeros and not self.choice.pattern.is_structured:
            score = score.masked_fill(weight == 0, -math.inf)
        return score

    def _prune_matrix(self, matrix: "Linear", statistics: Statistics) -> None:
        choice, weight = self.choice, self.view(matrix)
        follows = choice.metric.follows_update and choice.update.name != "none"
        follows = follows and not choice.keep_zeros  # a zero would come back before it is looked at
        if follows and self.threshold is None:
            mask = None
        else:
            score = self.score(matrix, statistics)
            if self.threshold is not None:
                mask = self.threshold.keep(matrix.name, score)
            else:
                mask = choose(score, choice.pattern, self.sparsity)
        if choice.keep_zeros and mask is not None:
            mask = mask & (weight != 0)
        pruned = choice.update.apply(weight, mask, choice.pattern, self.sparsity, statistics)
        self._store(matrix, pruned)

    def _prune_coupling(self, coupling: Coupling, statistics: BlockStatistics) -> None:
        import torch

        members = (*coupling.outs, coupling.last)
        scores = {m.name: self.score(m, self.statistics(m, statistics)) for m in members}
        total = group_scores(coupling, scores)
        num_prune = coupling.num_groups - num_kept(coupling, self.sparsity)
        groups = torch.from_numpy(keep.keep_rows(total[None].numpy(), num_prune)[0])
        weight = self.view(coupling.last)
        columns = groups.repeat_interleave(weight.shape[1] // coupling.num_groups)
        mask = columns.expand(weight.shape)
        if self.choice.keep_zeros:
            mask = mask & (weight != 0)
        known = self.statistics(coupling.last, statistics)
        pruned = self.choice.update.apply(weight, mask, self.choice.pattern, self.sparsity, known)
        self._store(coupling.last, pruned)
        self.kept.append((coupling, torch.nonzero(groups).flatten().tolist()))

    def _store(self, matrix: "Linear", values: "torch.Tensor") -> None:
        """Write `values` back as they will stand on disk.

        So later blocks see what a reader will.
        """
        self.view(matrix).copy_(values.to(self.reader.tensor(matrix.tensor).dtype))
