"""Uniform allocation."""

from collections.abc import Iterable
from typing import ClassVar

from treadle.core.method import Control
from treadle.core.shapes import Float, Tensor
from treadle.shrink.prune.base import Allocation, Statistics


class Uniform(Allocation):
    """Give every block the same sparsity."""

    name: ClassVar[str] = "uniform"
    paper = Control("Equal shares: what an allocation must beat.")

    def allocate(
        self, blocks: Iterable[list[tuple[Float[Tensor, "_out _in"], Statistics]]], sparsity: float
    ) -> list[float]:
        """Return `sparsity` for each block."""
        return [sparsity for _ in blocks]
