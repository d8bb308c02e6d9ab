"""Random pruning."""

from typing import TYPE_CHECKING, ClassVar

from treadle.core.method import Control
from treadle.core.shapes import Float, Tensor
from treadle.shrink.prune.base import Metric, Statistics

if TYPE_CHECKING:
    import torch


class Random(Metric):
    """Score every weight with a uniform random number.

    The control: a metric that does not beat it has learned nothing about the weights.
    """

    name: ClassVar[str] = "random"
    paper = Control("Uniform random masks: what any metric must beat at equal sparsity.")

    def score(
        self, weight: Float[Tensor, "out in"], statistics: Statistics, generator: "torch.Generator"
    ) -> Float[Tensor, "out in"]:
        """Return numbers drawn from [0, 1)."""
        import torch

        return torch.rand(weight.shape, generator=generator)
