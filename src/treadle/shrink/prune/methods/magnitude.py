"""Magnitude pruning."""

from typing import TYPE_CHECKING, ClassVar

from treadle.core.method import Paper
from treadle.core.shapes import Float, Tensor
from treadle.shrink.prune.base import Metric, Statistics

if TYPE_CHECKING:
    import torch


class Magnitude(Metric):
    """Score a weight by its size alone: S = |W|.

    No data is needed. The paper compares the weights of a whole layer (pattern `tensor`); Wanda's
    authors found rows to work better for every metric, and that is the default here.

    Paper: Han et al., "Learning both Weights and Connections for Efficient Neural Networks", 2015,
    section 3.1.
    """

    name: ClassVar[str] = "magnitude"
    paper = Paper(
        "Learning both Weights and Connections for Efficient Neural Networks",
        2015,
        "https://arxiv.org/abs/1506.02626",
    )

    def score(
        self, weight: Float[Tensor, "out in"], statistics: Statistics, generator: "torch.Generator"
    ) -> Float[Tensor, "out in"]:
        """Return |W|."""
        return weight.abs()
