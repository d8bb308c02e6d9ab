"""Updates as soon as possible."""

from typing import ClassVar

import numpy as np

from treadle.core.method import Paper
from treadle.learn.plan.base import Order, Ordered
from treadle.learn.plan.listing import updates_asap
from treadle.learn.plan.problem import Problem


class UpdatesAsap(Order):
    """Keep the traced order, but update each parameter as soon as its gradient is there.

    A gradient then dies at once instead of at the step's end. It is what an optimizer called by
    hooks in the backward pass does, so it costs nothing in PyTorch today: the rival to beat.

    Paper: Lv et al., "Full parameter fine-tuning for large language models with limited
    resources" (LOMO), ACL 2024.
    """

    name: ClassVar[str] = "updates_asap"
    paper = Paper(
        "Full Parameter Fine-tuning for Large Language Models with Limited Resources",
        2023,
        "https://arxiv.org/abs/2306.09782",
    )

    def order(self, problem: Problem, generator: np.random.Generator) -> Ordered:
        """Return the order."""
        return Ordered(tuple(updates_asap(problem)))
