"""Task arithmetic: the base plus weighted task vectors."""

from typing import Any, ClassVar

from pydantic import Field

from treadle.combine.merge.base import Chunk, Floats, MergeMethod, PerModel, Site
from treadle.combine.merge.maths.task_vectors import add_to_base, weighted_sum
from treadle.combine.merge.maths.weights import each
from treadle.core.method import Paper

__all__ = ["TaskArithmetic"]


class TaskArithmetic(MergeMethod):
    """Add what each model has learned, its difference from the base, to the base.

    Task vectors τ_n = θ_n - θ_0 of different tasks are nearly orthogonal, so that their sum keeps
    what each of them does. θ = θ_0 + λ Σ w_n τ_n, divided by Σ w_n where `normalize` is on. Sums
    accumulate in float32. mergekit's `density` and `rescale` have no effect in this method and are
    not settings of it.

    Paper: Ilharco et al., 2023, section 2.
    """

    name: ClassVar[str] = "task_arithmetic"
    base = "required"
    paper = Paper(
        "Editing Models with Task Arithmetic",
        2023,
        "https://arxiv.org/abs/2212.04089",
    )

    weight: PerModel = (1.0,)
    """Weight of each model's task vector."""
    lambda_: float = Field(default=1.0, alias="lambda")
    """Factor of the merged task vector."""
    normalize: bool = False
    """Divide by the sum of the weights."""

    def merge(self, chunk: Chunk, site: Site, known: Any) -> Floats:
        """Return the base plus the weighted sum of task vectors."""
        weights = each(self.weight, len(chunk.models), normalize=self.normalize)
        return add_to_base(chunk, weighted_sum(chunk.deltas(), weights), self.lambda_)
