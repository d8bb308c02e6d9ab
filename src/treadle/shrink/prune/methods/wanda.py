"""Wanda: weights and activations."""

from typing import TYPE_CHECKING, ClassVar

from treadle.core.method import Paper
from treadle.core.shapes import Float, Tensor
from treadle.shrink.prune.base import Metric, Need, Statistics

if TYPE_CHECKING:
    import torch


class Wanda(Metric):
    """Score a weight by its size times the norm of the input that it multiplies.

    A small weight on a loud channel matters more than a large one on a quiet channel. Equation 1 of
    the paper: S_ij = |W_ij| · ‖X_j‖₂, compared within each output row; the norm runs over all
    calibration tokens.

    Paper: Sun et al., "A Simple and Effective Pruning Approach for Large Language Models", ICLR
    2024.
    """

    name: ClassVar[str] = "wanda"
    needs: ClassVar[frozenset[Need]] = frozenset({"squares"})
    paper = Paper(
        "A Simple and Effective Pruning Approach for Large Language Models",
        2024,
        "https://arxiv.org/abs/2306.11695",
    )

    def score(
        self, weight: Float[Tensor, "out in"], statistics: Statistics, generator: "torch.Generator"
    ) -> Float[Tensor, "out in"]:
        """Return |W| · ‖X‖."""
        return weight.abs() * statistics.input_norm
