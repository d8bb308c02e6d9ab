"""No update."""

from typing import ClassVar

from treadle.core.method import Control
from treadle.core.shapes import Bool, Float, Tensor
from treadle.shrink.prune.base import Statistics, Update
from treadle.shrink.prune.patterns import Pattern


class NoUpdate(Update):
    """Leave the surviving weights as they are."""

    name: ClassVar[str] = "none"
    paper = Control("Masks alone: what an update must beat.")

    def apply(
        self,
        weight: Float[Tensor, "out in"],
        keep: "Bool[Tensor, 'out in'] | None",
        pattern: Pattern,
        sparsity: float,
        statistics: Statistics,
    ) -> Float[Tensor, "out in"]:
        """Return `weight` with zeros where `keep` is false."""
        assert keep is not None, "only an update that changes weights chooses its own mask"
        return weight.masked_fill(~keep, 0.0)
