"""AdaMerging: how much of each model goes into each layer, learned from unlabelled text."""

from typing import Annotated, Any, ClassVar

import numpy as np
from pydantic import Field

from treadle.combine.merge.base import Chunk, Floats, MergeMethod, Site
from treadle.combine.merge.maths.task_vectors import add_to_base, weighted_sum
from treadle.core.method import Paper

__all__ = ["AdaMerging"]


class AdaMerging(MergeMethod):
    """Learn a coefficient for each model and layer that makes the merged model sure of itself.

    Where predictions on unlabelled data are sure, they are mostly right, so that their entropy
    stands in for the loss. θ_l = θ_0,l + Σ_n λ_n,l τ_n,l, and the λ minimise the mean entropy of
    the next token's prediction, -Σ_v p_v log p_v, over windows of all texts, by Adam. Each step
    takes one window of each model's text. Layers are the decoder blocks, and all that lies outside
    them together (the paper: every tensor). The λ stay between 0 and 1, as entropy alone would have
    them grow; they begin at 1/N, where FusionBench's configuration for language models has 0.5, and
    move faster than its 1e-4 in 1000 steps. Needs the base and all models in float32 in memory, and
    one gradient of a tensor at a time.

    Paper: Yang et al., 2024 (layer-wise AdaMerging).
    """

    name: ClassVar[str] = "adamerging"
    base = "required"
    needs = "coefficients"
    paper = Paper(
        "AdaMerging: Adaptive Model Merging for Multi-Task Learning",
        2024,
        "https://arxiv.org/abs/2310.02575",
    )

    steps: Annotated[int, Field(ge=0)] = 100
    """Steps of Adam; 0 leaves all coefficients where they start."""
    learning_rate: Annotated[float, Field(gt=0)] = 0.01
    """Of Adam; a coefficient moves by about so much in a step."""
    start: Annotated[float, Field(ge=0, le=1)] | None = None
    """Where every coefficient begins; by default at one over the number of models."""

    def first(self, num_models: int) -> float:
        """Return where every coefficient begins."""
        return 1.0 / num_models if self.start is None else self.start

    def merge(self, chunk: Chunk, site: Site, known: Any) -> Floats:
        """Return the base plus the task vectors times what was learned."""
        learned = np.array([one.coefficient() for one in site.knowledge], np.float32)
        return add_to_base(chunk, weighted_sum(chunk.deltas(), learned))
