"""OWL: outlier-weighed layerwise sparsity."""

from collections.abc import Iterable
from typing import Annotated, ClassVar

from pydantic import Field

from treadle.core.errors import SettingsError
from treadle.core.method import Paper
from treadle.core.shapes import Float, Tensor
from treadle.shrink.prune.base import Allocation, Need, Statistics


class OWL(Allocation):
    """Prune blocks with many outlier weights less.

    A block's outlier share D is the fraction of its weights whose Wanda score |W|·‖X‖ exceeds M
    times the block's mean score (equation 1 of the paper). Shares are scaled to a span of 2λ around
    their mean and taken off the sparsity: s_l = s - (2λ·(D_l - min D)/(max D - min D) - mean), so
    that the mean stays s for blocks of equal size.

    Paper: Yin et al., "Outlier Weighed Layerwise Sparsity (OWL)", ICML 2024.
    """

    name: ClassVar[str] = "owl"
    needs: ClassVar[frozenset[Need]] = frozenset({"squares"})
    paper = Paper(
        "Outlier Weighed Layerwise Sparsity (OWL): A Missing Secret Sauce for Pruning LLMs to High "
        "Sparsity",
        2024,
        "https://arxiv.org/abs/2310.05175",
    )

    outlier_multiple: Annotated[float, Field(gt=1.0)] = 5.0
    """M: a score counts as an outlier above this multiple of the block's mean."""
    span: Annotated[float, Field(ge=0.0, le=0.5)] = 0.08
    """λ: half the widest difference between two blocks' sparsities."""

    def allocate(
        self, blocks: Iterable[list[tuple[Float[Tensor, "_out _in"], Statistics]]], sparsity: float
    ) -> list[float]:
        """Return each block's sparsity."""
        import torch

        shares = []
        for block in blocks:
            scores = torch.cat([(w.abs() * s.input_norm).flatten() for w, s in block])
            shares.append(float((scores > self.outlier_multiple * scores.mean()).double().mean()))
        low, high = min(shares), max(shares)
        if high == low:
            return [sparsity] * len(shares)
        scaled = [2 * self.span * (share - low) / (high - low) for share in shares]
        mean = sum(scaled) / len(scaled)
        found = [sparsity - (value - mean) for value in scaled]
        if min(found) < 0.0 or max(found) > 1.0:
            raise SettingsError(
                f"owl with span {self.span} around sparsity {sparsity} asks for {min(found):.3f} "
                f"to {max(found):.3f}, "
                f"outside 0..1; lower the span or move the sparsity towards 0.5."
            )
        return found
