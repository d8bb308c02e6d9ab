"""GBLM: gradient-based pruning beside activations."""

from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from treadle.core.method import Paper
from treadle.core.shapes import Float, Tensor
from treadle.shrink.prune.base import Metric, Need, Statistics

if TYPE_CHECKING:
    import torch


class GBLM(Metric):
    """Score a weight by its size times its input's norm plus a multiple of its gradient.

    The gradient says what the loss of the whole model feels, which a layer's own input cannot.
    Equation 3 of the
    paper: S_ij = |W_ij| · (‖X_j‖₂ + α‖G_ij‖₂), with the norms over calibration samples. Gradients
    here are of the mean loss a token in float32, one backward pass a window, so α is free of any
    loss scaling.

    Needs the whole model, its gradients and an accumulator in memory: it does not stream.

    Paper: Das et al., "Beyond Size: How Gradients Shape Pruning Decisions in Large Language
    Models", 2023.
    """

    name: ClassVar[str] = "gblm"
    needs: ClassVar[frozenset[Need]] = frozenset({"squares", "gradient"})
    paper = Paper(
        "Beyond Size: How Gradients Shape Pruning Decisions in Large Language Models",
        2023,
        "https://arxiv.org/abs/2311.04902",
    )

    alpha: Annotated[float, Field(ge=0.0)] = 100.0
    """Weight of the gradient term; the published code uses 100."""

    def score(
        self, weight: Float[Tensor, "out in"], statistics: Statistics, generator: "torch.Generator"
    ) -> Float[Tensor, "out in"]:
        """Return |W| · (‖X‖ + alpha · G)."""
        assert statistics.gradient is not None, "needs lists 'gradient'"
        return weight.abs() * (statistics.input_norm + self.alpha * statistics.gradient)
