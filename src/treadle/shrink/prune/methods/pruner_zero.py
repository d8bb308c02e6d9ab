"""Pruner-Zero's published metric."""

from typing import TYPE_CHECKING, ClassVar

from treadle.core.method import Paper
from treadle.core.shapes import Float, Tensor
from treadle.shrink.prune.base import Metric, Need, Statistics

if TYPE_CHECKING:
    import torch


class PrunerZero(Metric):
    """Score a weight by its square times its gradient, scaled to 0..1 over the matrix.

    The formula was found by genetic programming over symbolic metrics. As released:
    S_ij = |W_ij · W_ij| · (G_ij - min G) / (max G - min G), with G the Euclidean norm of the
    weight's gradient over the calibration samples. Scaling to 0..1 is affine, so any constant
    factor on the gradients cancels; a matrix whose gradients are all equal falls back to W².

    Needs the whole model, its gradients and an accumulator in memory: it does not stream.

    Paper: Dong et al., "Pruner-Zero: Evolving Symbolic Pruning Metric from Scratch for LLMs", ICML
    2024.
    """

    name: ClassVar[str] = "pruner_zero"
    needs: ClassVar[frozenset[Need]] = frozenset({"gradient"})
    paper = Paper(
        "Pruner-Zero: Evolving Symbolic Pruning Metric from Scratch for Large Language Models",
        2024,
        "https://arxiv.org/abs/2406.02924",
    )

    def score(
        self, weight: Float[Tensor, "out in"], statistics: Statistics, generator: "torch.Generator"
    ) -> Float[Tensor, "out in"]:
        """Return W² · mms(G)."""
        assert statistics.gradient is not None, "needs lists 'gradient'"
        gradient = statistics.gradient
        low, high = gradient.min(), gradient.max()
        if high == low:
            return weight.square()
        return weight.square() * ((gradient - low) / (high - low))
