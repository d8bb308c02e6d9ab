"""Blocks by chance."""

from typing import TYPE_CHECKING, ClassVar

from treadle.core.method import Control
from treadle.shrink.prune.base import BlockScore, States

if TYPE_CHECKING:
    import torch


class AnyBlock(BlockScore):
    """Score blocks at random."""

    name: ClassVar[str] = "any_block"
    paper = Control("Blocks by chance: what a block score must beat.")

    def score(
        self,
        states: States | None,
        depth: float,
        generator: "torch.Generator",
    ) -> float:
        """Return a number of the generator's."""
        import torch

        return float(torch.rand((), generator=generator))
