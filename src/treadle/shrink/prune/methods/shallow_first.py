"""Depth as worth: the deepest blocks go."""

from typing import TYPE_CHECKING, ClassVar

from treadle.core.method import Paper
from treadle.shrink.prune.base import BlockScore, States

if TYPE_CHECKING:
    import torch


class ShallowFirst(BlockScore):
    """Score a block by how shallow it lies, so that the deepest ones but the last go.

    It is the paper's simple heuristic of section 4.4, which needs no data: nearly as good as
    similarity once the model is taught again.

    Paper: Gromov et al., "The unreasonable ineffectiveness of the deeper layers", 2024.
    """

    name: ClassVar[str] = "shallow_first"
    paper = Paper(
        "The unreasonable ineffectiveness of the deeper layers",
        2024,
        "https://arxiv.org/abs/2403.17887",
    )

    def score(
        self,
        states: States | None,
        depth: float,
        generator: "torch.Generator",
    ) -> float:
        """Return the share of the model that lies above."""
        return 1 - depth
