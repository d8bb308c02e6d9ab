"""The protocol of searching weights: a pool of models in, the weights of their merge out."""

from abc import ABC, abstractmethod
from typing import Protocol

import numpy as np
import numpy.typing as npt

from treadle.core.method import Method

__all__ = ["ModelPool", "Search", "Weights"]

Weights = npt.NDArray[np.float64]
"""[groups, models], each row adding up to 1. The first row is of what stands outside of the layers;
the others are of as many runs of layers, of equal length and in their order. A single row is of
all."""


class ModelPool(Protocol):
    """Models that can be merged, and what any weighting of them scores."""

    @property
    def num_models(self) -> int:
        """How many there are."""

    @property
    def num_layers(self) -> int:
        """Layers of each."""

    @property
    def singles(self) -> npt.NDArray[np.float64]:
        """[models] score of each alone; lower is better."""

    @property
    def alike(self) -> npt.NDArray[np.float64]:
        """[models, models] cosines of their weights."""

    @property
    def generator(self) -> np.random.Generator:
        """For what is drawn."""

    def score(self, weights: Weights, share: float = 1.0) -> float:
        """Return the score of a merge on the first `share` (0..1) of each data set's items."""


class Search(Method, ABC):
    """How the weights of a merge are found."""

    @abstractmethod
    def search(self, pool: ModelPool) -> Weights:
        """Return the weights; models that got none are dropped."""
