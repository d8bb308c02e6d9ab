"""RIA: relative importance and activations."""

from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from treadle.core.method import Paper
from treadle.core.shapes import Float, Tensor
from treadle.shrink.prune.base import Metric, Need, Statistics

if TYPE_CHECKING:
    import torch


class RIA(Metric):
    """Score a weight by its share of its row and of its column, times a root of its input's norm.

    Shares protect channels whose weights are all small, which magnitude would remove whole.
    Equation 4 of the paper: S_ij = (|W_ij| / Σ_i|W_ij| + |W_ij| / Σ_j|W_ij|) · ‖X_j‖₂^a. The paper
    compares within the matrix (pattern `tensor`); its channel permutation for n:m is not part of
    the metric and not done here. A row or column of zeros has shares of zero.

    Paper: Zhang et al., "Plug-and-Play: An Efficient Post-training Pruning Method for LLMs", ICLR
    2024.
    """

    name: ClassVar[str] = "ria"
    needs: ClassVar[frozenset[Need]] = frozenset({"squares"})
    paper = Paper(
        "Plug-and-Play: An Efficient Post-training Pruning Method for Large Language Models",
        2024,
        "https://openreview.net/forum?id=Tr0lPx9woF",
    )

    exponent: Annotated[float, Field(ge=0.0, le=2.0)] = 0.5
    """Power of the input norm: 0 ignores the inputs, 1 weighs them as Wanda does."""

    def score(
        self, weight: Float[Tensor, "out in"], statistics: Statistics, generator: "torch.Generator"
    ) -> Float[Tensor, "out in"]:
        """Return the relative importance times ‖X‖^exponent."""
        size = weight.abs()
        column = size.sum(dim=0, keepdim=True).clamp_min(1e-30)
        row = size.sum(dim=1, keepdim=True).clamp_min(1e-30)
        return (size / column + size / row) * statistics.input_norm**self.exponent
