"""A frozen router that knows how sure it is: text in, a share of each expert out."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from treadle.core.checkpoint.layered import Decision, LayerRouting
from treadle.core.checkpoint.routed import ROUTER_FILE, NgramFeatures
from treadle.core.errors import CheckpointError
from treadle.model.embed.ngrams import ngram_counts

__all__ = ["Discriminant", "load_discriminant"]

Floats = npt.NDArray[np.float32]
_STEPS = 20
"""Shares are rounded to so many parts, so that alike prompts are answered by one mixture."""


class Discriminant(NamedTuple):
    """Gaussian discriminant of prompts' kinds, all with one covariance.

    The covariance is that of the kinds' prompts and a share of its mean on the diagonal, so that it
    is `noise` wherever no prompt differed: its inverse is (1 - A^T A) / noise.
    """

    features: NgramFeatures
    means: Floats
    """[kinds, features]"""
    directions: Floats
    """A [rank, features]"""
    noise: float
    owners: Floats
    """[kinds, experts] which expert a kind belongs to: one-hot rows."""
    decision: Decision

    def distances(self, texts: Sequence[str]) -> Floats:
        """Return the squared Mahalanobis distance to each kind [texts, kinds]."""
        found = np.empty((len(texts), len(self.means)), np.float32)
        spread = self.means @ self.directions.T
        for row, text in zip(found, texts, strict=True):
            (vector,) = ngram_counts([text], self.features)
            apart = vector - self.means
            inside = self.directions @ vector - spread
            row[:] = ((apart**2).sum(axis=1) - (inside**2).sum(axis=1)) / self.noise
        return np.maximum(found, 0)

    def probabilities(self, texts: Sequence[str]) -> Floats:
        """Return each expert's probability [texts, experts]; kinds are alike before a text."""
        return self._owned(self.distances(texts))

    def shares(self, texts: Sequence[str]) -> Floats:
        """Return how much each expert answers of each text [texts, experts]; zeros: none does."""
        distances = self.distances(texts)
        pairs = zip(self._are_strange(distances), self._owned(distances), strict=True)
        return np.stack([self._decided(is_strange, own) for is_strange, own in pairs])

    def strangers(self, texts: Sequence[str]) -> list[bool]:
        """Say of each text whether it is of no known kind."""
        return self._are_strange(self.distances(texts))

    def _are_strange(self, distances: Floats) -> list[bool]:
        farthest = np.array(self.decision.farthest)[distances.argmin(axis=1)]
        return [bool(one) for one in np.sqrt(distances.min(axis=1)) > farthest]

    def _owned(self, distances: Floats) -> Floats:
        scores = -0.5 * distances / self.decision.temperature
        scores -= scores.max(axis=1, keepdims=True)
        kinds = np.exp(scores)
        found: Floats = (kinds / kinds.sum(axis=1, keepdims=True)) @ self.owners
        return found

    def _decided(self, is_strange: bool, probabilities: Floats) -> Floats:
        count, rule = len(probabilities), self.decision
        if is_strange and rule.strangers != "mix":
            share = 1 / count if rule.strangers == "mean" else 0.0
            return np.full(count, share, np.float32)
        known = probabilities[probabilities > 0]
        entropy = float(-(known * np.log(known)).sum() / np.log(max(count, 2)))
        if not is_strange and entropy <= rule.certain:
            alone: Floats = np.eye(count, dtype=np.float32)[probabilities.argmax()]
            return alone
        order = np.argsort(-probabilities, kind="stable")
        held = np.cumsum(probabilities[order])
        taken = order[: int(np.searchsorted(held, rule.mass)) + 1]
        mixed = np.zeros(count, np.float32)
        mixed[taken] = probabilities[taken] / probabilities[taken].sum()
        return _rounded(mixed)


def _rounded(shares: Floats) -> Floats:
    """Return shares in whole parts that add up to 1: the largest rests get what is left."""
    parts = shares * _STEPS
    whole = np.floor(parts)
    left = _STEPS - int(whole.sum())
    for place in np.argsort(whole - parts, kind="stable")[:left]:
        whole[place] += 1
    return (whole / _STEPS).astype(np.float32)


def load_discriminant(folder: Path, routing: LayerRouting) -> Discriminant | None:
    """Read the router of a bundle; None if it has none.

    Raises:
        CheckpointError: It is missing, damaged, or of other experts than the bundle's.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    if routing.features is None:
        return None
    file, width = folder / ROUTER_FILE, 2 * routing.features.width
    try:
        found = load_file(file)
        parts = [found[name] for name in ("means", "directions", "noise", "owners")]
    except (OSError, KeyError, SafetensorError) as error:
        raise CheckpointError(f"{file} is no router ({error}); copy the bundle again.") from error
    means, directions, noise, owners = parts
    kinds = len(means) if means.ndim else 0
    wanted = [(kinds, width), (len(directions), width), (1,), (kinds, len(routing.experts))]
    for part, shape in zip(parts, wanted, strict=True):
        if part.dtype != np.float32 or part.shape != shape or not np.isfinite(part).all():
            raise CheckpointError(
                f"{file} holds {part.dtype} {list(part.shape)}, but finite float32 {list(shape)} "
                f"were expected for {len(routing.experts)} experts; copy the bundle again."
            )
    if noise[0] <= 0 or len(routing.decision.farthest) != kinds:
        raise CheckpointError(
            f"{file} has a noise of {noise[0]} and {kinds} kinds, of which routing.json beside it "
            f"knows {len(routing.decision.farthest)}; copy the bundle again."
        )
    return Discriminant(
        routing.features, means, directions, float(noise[0]), owners, routing.decision
    )
