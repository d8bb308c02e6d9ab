"""RegMean++: RegMean on the inputs that the merged model has, and not on each model's own."""

from typing import Annotated, Any, ClassVar

from pydantic import Field

from treadle.combine.merge.base import Chunk, Floats, MergeMethod, Site
from treadle.combine.merge.maths.regression import regression_mean
from treadle.core.method import Paper

__all__ = ["RegMeanPlusPlus"]


class RegMeanPlusPlus(MergeMethod):
    """Solve, for each matrix, the regression on what reaches it in the merged model.

    RegMean fits a matrix to inputs that blocks of the single models made, but in the merged model
    others arrive. Here block after block is merged, and each model's text runs through the merged
    blocks before it: W = (Σ W_n G_n) (Σ G_n)^-1 with G_n = X_n^T X_n, where X_n are the inputs of
    model n's matrix when its block reads what the merged blocks computed. Entries off the diagonal
    are shrunk by `shrinkage`; everything that is no matrix of a block is averaged, the embedding
    too. The prefix is float32, also where the output is not. The system is solved in float64 with a
    ridge of 1e-6 of the mean diagonal, as in regmean. One block of each model is in memory.

    Paper: Nguyen et al., 2025 (RegMean++).
    """

    name: ClassVar[str] = "regmean_plus_plus"
    paper = Paper(
        "RegMean++: Enhancing Effectiveness and Generalization of Regression Mean for Model "
        "Merging",
        2025,
        "https://arxiv.org/abs/2508.03121",
    )
    unit = "tensor"
    needs = "merged_gram"

    shrinkage: Annotated[float, Field(ge=0, le=1)] = 0.9
    """Factor of the entries of Gram matrices off their diagonals; 0 weighs inputs one by one."""

    def merge(self, chunk: Chunk, site: Site, known: Any) -> Floats:
        """Return the merged tensor."""
        return regression_mean(chunk, site, self.shrinkage)
