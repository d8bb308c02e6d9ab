"""RAM: task vectors averaged over the models that changed an element."""

from typing import Any, ClassVar

from pydantic import Field

from treadle.combine.merge.base import Chunk, Floats, MergeMethod, Site
from treadle.combine.merge.maths.overlap import changes, divide_by_count
from treadle.combine.merge.maths.task_vectors import add_to_base
from treadle.core.method import Paper

__all__ = ["Ram"]


class Ram(MergeMethod):
    """Average each element over the models that changed it, not over all models.

    Reinforcement learning changes few elements, and averaging over models that left an element
    alone dilutes what the others learned. With m_n = 1[|τ_n| > ε] and c = Σ m_n,
    θ = θ_0 + Σ m_n τ_n / max(c, 1), element by element. Sums accumulate in float32.

    Paper: Yuan et al., 2026.
    """

    name: ClassVar[str] = "ram"
    base = "required"
    paper = Paper(
        "Behavior Knowledge Merge in Reinforced Agentic Models",
        2026,
        "https://arxiv.org/abs/2601.13572",
    )

    epsilon: float = Field(default=1e-5, ge=0.0)
    """An element counts as changed above this difference."""

    def merge(self, chunk: Chunk, site: Site, known: Any) -> Floats:
        """Return the base plus the mean change."""
        deltas = chunk.deltas()
        changed, count = changes(deltas, self.epsilon)
        merged: Floats = deltas[0]
        merged *= changed[0]
        for row, mask in zip(deltas[1:], changed[1:], strict=True):
            row *= mask
            merged += row
        return add_to_base(chunk, divide_by_count(merged, count))
