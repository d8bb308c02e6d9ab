"""Linear: the weighted mean of the models."""

from typing import Any, ClassVar

from treadle.combine.merge.base import Chunk, Floats, MergeMethod, PerModel, Site
from treadle.combine.merge.maths.task_vectors import weighted_sum
from treadle.combine.merge.maths.weights import each
from treadle.core.method import Paper

__all__ = ["Linear"]


class Linear(MergeMethod):
    """Average the weights of models that were fine-tuned from one base.

    Fine-tuned models often lie in one valley of the loss, and the mean of them as well (a model
    soup). θ = Σ w_n θ_n / Σ w_n, without the division where `normalize` is off. Sums accumulate in
    float32.

    Paper: Wortsman et al., 2022, section 2.
    """

    name: ClassVar[str] = "linear"
    paper = Paper(
        "Model soups: averaging weights of multiple fine-tuned models improves accuracy without "
        "increasing inference time",
        2022,
        "https://arxiv.org/abs/2203.05482",
    )

    weight: PerModel = (1.0,)
    """Weight of each model."""
    normalize: bool = True
    """Divide by the sum of the weights."""

    def merge(self, chunk: Chunk, site: Site, known: Any) -> Floats:
        """Return the weighted sum of a run."""
        weights = each(self.weight, len(chunk.models), normalize=self.normalize)
        return weighted_sum(chunk.models, weights)
