"""RegMean: the matrix whose outputs are closest to all models' outputs on their own inputs."""

from typing import Annotated, Any, ClassVar

from pydantic import Field

from treadle.combine.merge.base import Chunk, Floats, MergeMethod, Site
from treadle.combine.merge.maths.regression import regression_mean
from treadle.core.method import Paper

__all__ = ["RegMean"]


class RegMean(MergeMethod):
    """Solve, for each matrix, the regression that all models' inputs and outputs pose.

    Of all matrices the best one minimises Σ_n |X_n W^T - X_n W_n^T|², which has a closed form:
    W = (Σ W_n G_n) (Σ G_n)^-1 with G_n = X_n^T X_n, whose entries off the diagonal are shrunk by
    `shrinkage`. Everything that is no matrix of a block is averaged. The system is solved in
    float64; a ridge of 1e-6 of the mean diagonal pulls towards the mean of the models, which is
    what inputs that never fire are given.

    Paper: Jin et al., 2023, equation 2.
    """

    name: ClassVar[str] = "regmean"
    paper = Paper(
        "Dataless Knowledge Fusion by Merging Weights of Language Models",
        2023,
        "https://arxiv.org/abs/2212.09849",
    )
    unit = "tensor"
    needs = "gram"

    shrinkage: Annotated[float, Field(ge=0, le=1)] = 0.9
    """Factor of the entries of Gram matrices off their diagonals; 0 weighs inputs one by one."""

    def merge(self, chunk: Chunk, site: Site, known: Any) -> Floats:
        """Return the merged tensor."""
        return regression_mean(chunk, site, self.shrinkage)
