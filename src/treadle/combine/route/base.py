"""The protocol of routing: questions with the worth of every model in, scorers out."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import ClassVar, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from treadle.core.method import Method
from treadle.runtime.routed.queries.program import RouteScorer

__all__ = ["Doubles", "Learned", "RouteData", "RouteMethod"]

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]


class RouteData(NamedTuple):
    """What a router is made of."""

    vectors: Floats
    """[questions, dim], of length 1."""
    worth: Doubles
    """[questions, models]: the score less what cost and latency take off; NaN: not asked."""
    scores: Doubles
    """[questions, models], 0..1."""
    cost: Doubles | None
    """[questions, models] cost of an answer, where costs are known; NaN: not asked."""
    tasks: tuple[str, ...] | None
    """Of each question, where they are known."""
    clusters: tuple[int, ...] | None
    """Of each question, where the records say them."""
    confidence: Doubles | None = None
    """[questions, models] how sure each model was, where that is known; NaN: nobody says."""
    keys: tuple[int, ...] | None = None
    """Of each row, which question it asks: the same one may stand in several; None: in none."""

    @property
    def num_models(self) -> int:
        """How many there are."""
        return int(self.worth.shape[1])


class Learned(NamedTuple):
    """A router that is there."""

    scorer: RouteScorer
    step: int = 0
    """Of the training, where it takes steps."""
    loss: float | None = None
    """Mean of what was minimised since the last one."""
    note: str = ""
    """What a user should know of it."""


class RouteMethod(Method, ABC):
    """How it is learned which model answers what."""

    reads_vectors: ClassVar[bool] = True
    """Whether it looks at the questions; otherwise nobody makes vectors of them."""
    weighs_rates: ClassVar[bool] = True
    """Whether it goes by what costs and latencies take off a score."""

    def chooses_on(self) -> Literal["dev", "train"]:
        """Return where steps are compared, of which the best is kept."""
        return "dev"

    @abstractmethod
    def learn(self, data: RouteData, seed: int) -> Iterator[Learned]:
        """Yield one router; where training takes steps, one every so many of them."""
