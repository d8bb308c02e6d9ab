"""The kinds of scorers, each a small program over arrays."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Self

import numpy as np
import numpy.typing as npt

from treadle.core.errors import DataError
from treadle.runtime.routed.queries.program import Above, Axes, Floats, RouteScorer

__all__ = [
    "SCORERS",
    "CascadeScores",
    "ClustersScores",
    "ConstantScores",
    "CosineScores",
    "DrawnScores",
    "LinearScores",
    "NearestScores",
    "PerceptronScores",
    "TaskScores",
]

_TINY = np.float32(1e-12)


@dataclass(frozen=True, eq=False)
class ConstantScores(RouteScorer):
    """The same scores for whatever is asked."""

    kind: ClassVar[str] = "constant"
    reads_vectors: ClassVar[bool] = False

    values: Annotated[Floats, Axes("models")]

    def scores(self, texts: Sequence[str], vectors: Floats) -> Floats:
        """Return the values for each text."""
        return np.repeat(self.values[None], len(texts), axis=0)


@dataclass(frozen=True, eq=False)
class DrawnScores(RouteScorer):
    """Scores that are drawn, by the text itself: asked again, a query goes the same way."""

    kind: ClassVar[str] = "drawn"
    reads_vectors: ClassVar[bool] = False

    values: Annotated[Floats, Axes("models")]
    """Zeros: how many models there are."""
    seed: int

    def scores(self, texts: Sequence[str], vectors: Floats) -> Floats:
        """Return scores below 1, evenly drawn."""
        found = np.zeros((len(texts), len(self.values)), np.float32)
        for row, text in zip(found, texts, strict=True):
            named = f"{self.seed}:".encode() + text.encode("utf-8", "surrogatepass")
            seed = int.from_bytes(hashlib.sha256(named).digest()[:8], "little")
            row[:] = np.random.Generator(np.random.Philox(seed)).random(len(row))
        return found


@dataclass(frozen=True, eq=False)
class TaskScores(RouteScorer):
    """Says of which task a text is, by a linear score, and what every model is worth at it."""

    kind: ClassVar[str] = "table"

    weight: Annotated[Floats, Axes("tasks", "dim")]
    bias: Annotated[Floats, Axes("tasks")]
    values: Annotated[Floats, Axes("tasks", "models")]

    def scores(self, texts: Sequence[str], vectors: Floats) -> Floats:
        """Return the row of the likeliest task."""
        found: Floats = self.values[(vectors @ self.weight.T + self.bias).argmax(axis=1)]
        return found


@dataclass(frozen=True, eq=False)
class NearestScores(RouteScorer):
    """The mean score of the most similar questions, weighted by their cosine.

    A model that was asked none of them has its mean over all questions; if it was asked nothing,
    0, or the least value there is below that.
    """

    kind: ClassVar[str] = "nearest"

    vectors: Annotated[Floats, Axes("questions", "dim")]
    """Of length 1."""
    values: Annotated[Floats, Axes("questions", "models", may_lack=True)]
    k: Annotated[int, Above(0)]

    def scores(self, texts: Sequence[str], vectors: Floats) -> Floats:
        """Return the weighted means; weights below zero count as none."""
        alike = vectors @ self.vectors.T
        k = min(self.k, alike.shape[1])
        near = np.argpartition(-alike, k - 1, axis=1)[:, :k]
        weights = np.maximum(np.take_along_axis(alike, near, axis=1), _TINY)[:, :, None]
        values = self.values[near]
        is_known = np.isfinite(values)
        total = (weights * is_known).sum(axis=1)
        weighted = (weights * np.where(is_known, values, 0)).sum(axis=1)
        found: Floats = weighted / np.maximum(total, _TINY)
        if is_known.all():
            return found
        is_there = np.isfinite(self.values)
        filled, asked = np.where(is_there, self.values, 0), is_there.sum(axis=0)
        usual = filled.sum(axis=0) / np.maximum(asked, 1)
        usual = np.where(asked > 0, usual, filled.min(initial=0))
        found = np.where(total > 0, found, usual).astype(np.float32)
        return found


@dataclass(frozen=True, eq=False)
class ClustersScores(RouteScorer):
    """What models are worth in the nearest clusters, weighted by softmax(-beta distance)."""

    kind: ClassVar[str] = "clusters"

    centres: Annotated[Floats, Axes("clusters", "dim")]
    values: Annotated[Floats, Axes("clusters", "models")]
    top_k: Annotated[int, Above(0)]
    beta: Annotated[float, Above(0, may_equal=True)]

    def scores(self, texts: Sequence[str], vectors: Floats) -> Floats:
        """Return the weighted means; distances are Euclidean."""
        squares = (vectors**2).sum(axis=1)[:, None] + (self.centres**2).sum(axis=1)
        away = np.sqrt(np.maximum(squares - 2 * vectors @ self.centres.T, 0))
        k = min(self.top_k, away.shape[1])
        near = np.argpartition(away, k - 1, axis=1)[:, :k]
        some = np.take_along_axis(away, near, axis=1)
        weights = np.exp(-np.float32(self.beta) * (some - some.min(axis=1, keepdims=True)))
        weights /= weights.sum(axis=1, keepdims=True)
        found: Floats = (weights[:, :, None] * self.values[near]).sum(axis=1)
        return found


@dataclass(frozen=True, eq=False)
class LinearScores(RouteScorer):
    """A linear score for each model."""

    kind: ClassVar[str] = "linear"

    weight: Annotated[Floats, Axes("models", "dim")]
    bias: Annotated[Floats, Axes("models")]

    def scores(self, texts: Sequence[str], vectors: Floats) -> Floats:
        """Return w . v + b."""
        found: Floats = vectors @ self.weight.T + self.bias
        return found


@dataclass(frozen=True, eq=False)
class PerceptronScores(RouteScorer):
    """One hidden layer of ReLUs, and the sigmoid of a linear score for each model."""

    kind: ClassVar[str] = "mlp"

    inner_weight: Annotated[Floats, Axes("hidden", "dim")]
    inner_bias: Annotated[Floats, Axes("hidden")]
    weight: Annotated[Floats, Axes("models", "hidden")]
    bias: Annotated[Floats, Axes("models")]

    def scores(self, texts: Sequence[str], vectors: Floats) -> Floats:
        """Return the sigmoids."""
        hidden = np.maximum(vectors @ self.inner_weight.T + self.inner_bias, 0)
        logits = hidden @ self.weight.T + self.bias
        found: Floats = (0.5 * (1 + np.tanh(0.5 * logits))).astype(np.float32)
        return found


@dataclass(frozen=True, eq=False)
class CosineScores(RouteScorer):
    """The cosine of a text's projection to a vector of each model, over a temperature."""

    kind: ClassVar[str] = "cosine"

    weight: Annotated[Floats, Axes("hidden", "dim")]
    bias: Annotated[Floats, Axes("hidden")]
    models: Annotated[Floats, Axes("models", "hidden")]
    """Of length 1."""
    temperature: Annotated[float, Above(0)]

    def scores(self, texts: Sequence[str], vectors: Floats) -> Floats:
        """Return the cosines over the temperature."""
        inner = vectors @ self.weight.T + self.bias
        lengths = np.sqrt((inner**2).sum(axis=1, keepdims=True))
        cosines = (inner / np.maximum(lengths, _TINY)) @ self.models.T
        found: Floats = cosines / np.float32(self.temperature)
        return found


@dataclass(frozen=True, eq=False)
class CascadeScores(RouteScorer):
    """Models in turn, until one is sure of its answer: before anybody is asked, the first one's."""

    kind: ClassVar[str] = "cascade"
    reads_vectors: ClassVar[bool] = False

    ranks: Annotated[Floats, Axes("models")]
    """When each is asked, from 0 on; below 0: never."""
    thresholds: Annotated[Floats, Axes("models")]
    """Confidence from which an answer stands; of the last model's it always does."""

    @property
    def turns(self) -> list[int]:
        """Indices of the models that are asked, in that order.

        Who stands before the last one and could never be sure enough is not asked.
        """
        ranked = [int(place) for place in np.argsort(self.ranks) if self.ranks[place] >= 0]
        may_stand = [place for place in ranked[:-1] if self.thresholds[place] <= 1]
        return [*may_stand, *ranked[-1:]]

    def among(self, places: Sequence[int]) -> Self:
        """Return the cascade of some of the models, of which the last one's answer stands."""
        is_there = np.isin(np.arange(len(self.ranks)), places)
        return replace(self, ranks=np.where(is_there, self.ranks, np.float32(-1)))

    def scores(self, texts: Sequence[str], vectors: Floats) -> Floats:
        """Return the same for all: the earlier a model is asked, the more."""
        row = np.full(len(self.ranks), -1 - len(self.ranks), np.float32)
        row[self.turns] = -self.ranks[self.turns]
        return np.repeat(row[None], len(texts), axis=0)

    def decide(
        self, texts: Sequence[str], vectors: Floats, confidence: npt.NDArray[np.float64] | None
    ) -> Floats:
        """Return 1 for the model whose answer stands, and less for the others."""
        found = np.minimum(self.scores(texts, vectors), 0)
        *before, last = self.turns
        if before and (confidence is None or np.isnan(confidence[:, before]).any()):
            raise DataError(
                "A cascade goes by how sure models were, and the records do not say it of all that "
                'are asked; give "confidence": {MODEL: 0..1} in each.'
            )
        who = np.full(len(texts), last)
        for place in reversed(before):
            assert confidence is not None
            who[confidence[:, place] >= self.thresholds[place]] = place
        found[np.arange(len(texts)), who] = 1
        return found


SCORERS: dict[str, type[RouteScorer]] = {
    one.kind: one
    for one in (
        ConstantScores,
        DrawnScores,
        TaskScores,
        NearestScores,
        ClustersScores,
        LinearScores,
        PerceptronScores,
        CosineScores,
        CascadeScores,
    )
}
"""Kind -> class."""
