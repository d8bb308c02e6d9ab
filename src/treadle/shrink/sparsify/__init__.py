"""Sparsify: train what says, while a model runs, which entries of its cache stay.

The model is frozen. Small heads beside it learn from what its own attention does on samples made of
plain text; they travel as a side file that no other loader needs.
"""

from treadle.shrink.sparsify.apply import sparsify
from treadle.shrink.sparsify.tables import METHODS

__all__ = ["METHODS", "sparsify"]
