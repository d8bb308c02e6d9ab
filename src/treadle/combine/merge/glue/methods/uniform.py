"""Uniform: the mean of all, whoever is bad."""

from typing import ClassVar

import numpy as np

from treadle.combine.merge.glue.base import ModelPool, Search, Weights
from treadle.core.method import Control

__all__ = ["Uniform"]


class Uniform(Search):
    """Give every model the same weight, and look at none: what every search has to beat."""

    name: ClassVar[str] = "uniform"
    paper = Control("The mean of all models.")

    def search(self, pool: ModelPool) -> Weights:
        """Return the weights."""
        return np.full((1, pool.num_models), 1 / pool.num_models)
