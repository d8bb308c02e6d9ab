"""RAM+ (tensor-local): RAM that enlarges what only one model changed."""

from typing import ClassVar

import numpy as np
from pydantic import Field

from treadle.combine.merge.base import Chunk, Floats, MergeMethod, Site
from treadle.combine.merge.maths.overlap import changes, divide_by_count
from treadle.combine.merge.maths.task_vectors import add_to_base
from treadle.core.method import Paper

__all__ = ["RamPlusTl"]


class RamPlusTl(MergeMethod):
    """Average what several models changed, and enlarge what one alone changed, to make up for it.

    With m_n = 1[|τ_n| > ε] and c = Σ m_n, ρ_n is the number of elements that model n changed
    together with others over that of those it alone changed, in this tensor, and
    λ_n = 1 + r min(ρ_n, α). Where c = 1, θ = θ_0 + Σ m_n τ_n λ_n; where c > 1,
    θ = θ_0 + Σ m_n τ_n / c. Counting within the tensor (tl: tensor-local) is mergekit's. A model
    that changed nothing alone has nothing to enlarge. Sums accumulate in float32.

    Paper: Yuan et al., 2026.
    """

    name: ClassVar[str] = "ramplus_tl"
    base = "required"
    paper = Paper(
        "Behavior Knowledge Merge in Reinforced Agentic Models",
        2026,
        "https://arxiv.org/abs/2601.13572",
    )

    r: float = 0.1
    """How much a share of overlap enlarges."""
    alpha: float = Field(default=0.2, ge=0.0)
    """The largest share of overlap that counts."""
    epsilon: float = Field(default=1e-5, ge=0.0)
    """An element counts as changed above this difference."""

    def measure(self, site: Site) -> Floats:
        """Return λ of each model."""
        shared = np.zeros(len(site.keys))
        alone = np.zeros(len(site.keys))
        for chunk in site.chunks("elements"):
            changed, count = changes(chunk.deltas(), self.epsilon)
            is_alone = count == 1
            here = np.array([np.count_nonzero(mask & is_alone) for mask in changed])
            alone += here
            shared += np.count_nonzero(changed, axis=1) - here
        share = np.minimum(shared / np.maximum(alone, 1.0), self.alpha)
        return (1.0 + self.r * share).astype(np.float32)

    def merge(self, chunk: Chunk, site: Site, known: Floats) -> Floats:
        """Return the base plus the mean change, enlarged where it is one model's."""
        deltas = chunk.deltas()
        changed, count = changes(deltas, self.epsilon)
        is_alone = count == 1
        merged = np.zeros_like(deltas[0])
        for row, mask, factor in zip(deltas, changed, known, strict=True):
            row *= mask
            # Factor where the model is alone, 1 elsewhere.
            row *= np.multiply(is_alone, factor - np.float32(1.0)) + np.float32(1.0)
            merged += row
        return add_to_base(chunk, divide_by_count(merged, count))
