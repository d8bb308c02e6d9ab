"""A router of queries: text in, a score for every model out."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from treadle.core.ports import Embedder
from treadle.model.embed.pooled import unit
from treadle.runtime.routed.queries.program import Floats, RouteScorer
from treadle.runtime.routed.queries.record import RouterRecord

__all__ = ["QueryRouter", "projected"]


class QueryRouter(NamedTuple):
    """Chooses the model with the largest score."""

    record: RouterRecord
    scorer: RouteScorer
    embedder: Embedder | None
    """None where the scorer reads no vectors."""
    projection: Floats | None = None
    """[embedded, dim] to what the scorer reads; None: as they are embedded."""
    questions: frozenset[int] = frozenset()
    """Hashes of the questions that it was made of."""

    @property
    def models(self) -> tuple[str, ...]:
        """Names of the models, in the order of the scores."""
        return self.record.models

    def scores(self, texts: Sequence[str]) -> Floats:
        """Return the score of every model for every text [texts, models], in float32."""
        if not texts:
            return np.zeros((0, len(self.models)), np.float32)
        return self.scorer.scores(texts, self._vectors(texts))

    def decide(self, texts: Sequence[str], confidence: npt.NDArray[np.float64] | None) -> Floats:
        """Return scores as `scores` does, where it is known how sure each model was.

        Raises:
            DataError: A cascade is not told.
        """
        return self.scorer.decide(texts, self._vectors(texts), confidence)

    def _vectors(self, texts: Sequence[str]) -> Floats:
        if self.embedder is None:
            return np.zeros((len(texts), 0), np.float32)
        return projected(self.embedder.embed(texts), self.projection)

    def choose(self, texts: Sequence[str]) -> list[int]:
        """Return the index of the model for each text; the first of equals."""
        return [int(place) for place in self.scores(texts).argmax(axis=1)]


def projected(vectors: Floats, projection: Floats | None) -> Floats:
    """Return vectors in the directions of the projection, at length 1; zeros stay."""
    if projection is None:
        return vectors
    return unit(vectors @ projection)
