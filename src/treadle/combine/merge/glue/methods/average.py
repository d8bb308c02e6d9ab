"""Average: models join a running mean, and stay where it does not get worse."""

from typing import ClassVar

from treadle.combine.merge.glue.base import ModelPool, Search, Weights
from treadle.combine.merge.glue.greedy import by_score, grown, running_mean
from treadle.core.method import Paper

__all__ = ["Average"]


class Average(Search):
    """Take models into a running mean, the best ones first, unless the score gets worse.

    With n models taken in so far, the candidate counts 1/(n+2) of the merge; what makes it worse is
    dropped for good. It costs one evaluation a model. Where two merges score alike, the larger one
    stays.

    Paper: Zhao et al., 2024, heuristic strategy with averaging; also the greedy soup of Wortsman et
    al., 2022.
    """

    name: ClassVar[str] = "average"
    paper = Paper(
        "Model-GLUE: Democratized LLM Scaling for A Large Model Zoo in the Wild",
        2024,
        "https://arxiv.org/abs/2410.05357",
    )

    def search(self, pool: ModelPool) -> Weights:
        """Return the weights."""
        return grown(pool, by_score(pool), running_mean)
