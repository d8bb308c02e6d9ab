"""Who answers which prompt: a Gaussian discriminant of the sets' prompts, solved for."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from treadle.combine.merge.glue.items import ItemSet
from treadle.core.checkpoint.layered import Decision
from treadle.core.checkpoint.routed import NgramFeatures
from treadle.core.errors import DataError
from treadle.core.seed import numpy_stream
from treadle.model.embed.ngrams import ngram_counts
from treadle.runtime.routed.discriminant import Discriminant

__all__ = ["Fitted", "fitted", "require_enough"]

_SHRINKAGE = 0.1
"""Share of its mean on the diagonal of the covariance."""
_MOST_DIRECTIONS = 256
_LEAST = 4
_HELD_OUT = 0.25
"""Share of each set's prompts on which the temperature and the farthest distance are found."""
_DEVIATIONS, _QUANTILE = 3.0, 0.99
_WORTH_NATS = 0.01
"""What a smaller temperature has to gain, or kinds that are far apart would make it vanish."""
_TEMPERATURES = np.geomspace(0.1, 1e4, 101)
Floats = npt.NDArray[np.float32]


class Fitted(NamedTuple):
    """A router, and what it does with prompts that it was not made of."""

    router: Discriminant
    owners: list[int]
    """Of each set: the expert that it belongs to."""
    num_calibrated: int
    """Prompts on which its temperature and farthest distance were found."""


def require_enough(sets: Sequence[ItemSet]) -> None:
    """Check that every set has prompts to be made of, and others to be calibrated on.

    Raises:
        DataError: One has too few.
    """
    for one in sets:
        if len(one.items) < _LEAST:
            raise DataError(
                f"'{one.name}' has {len(one.items)} items to make a router of, and it takes "
                f"{_LEAST} of each kind, some of them to calibrate it; give more."
            )


def fitted(sets: Sequence[ItemSet], losses: Sequence[Sequence[float]], seed: int) -> Fitted:
    """Return the discriminant of the kinds of prompts that `sets` are.

    Each set is one Gaussian kind and belongs to the expert that loses least on it. Means and the
    common covariance, (1 - 0.1) S + 0.1 tr(S) / d, are those of three quarters of the prompts; on
    the others the temperature is the largest of about the least -log p of their own kind. A prompt
    counts as a stranger beyond their distances to their own kind: three standard deviations above
    the mean of the kind, and the 99 % quantile of all kinds, whichever is more.

    Args:
        sets: Prompts by kind.
        losses: [sets][experts] mean loss of each expert on each set.
        seed: Of the split.

    Raises:
        DataError: A set has too few prompts to be split, or none that differ.
    """
    require_enough(sets)
    spec = NgramFeatures()
    owners = [int(np.argmin(row)) for row in losses]
    known, held = [], []
    for number, one in enumerate(sets):
        order = numpy_stream(seed, f"calibrate {number}").permutation(len(one.items))
        texts = [one.items[place].prompt for place in order]
        count = max(1, round(_HELD_OUT * len(texts)))
        held.append(texts[:count])
        known.append(ngram_counts(texts[count:], spec))
    means = np.stack([rows.mean(axis=0) for rows in known])
    rows = np.concatenate([own - mean for own, mean in zip(known, means, strict=True)])
    directions, noise = _inverse(rows)
    experts = np.eye(len(losses[0]), dtype=np.float32)[owners]
    router = Discriminant(spec, means, directions, noise, experts, Decision())
    distances = [router.distances(texts) for texts in held]
    decision = Decision(
        temperature=_temperature(distances),
        farthest=_farthest([np.sqrt(own[:, kind]) for kind, own in enumerate(distances)]),
    )
    return Fitted(router._replace(decision=decision), owners, sum(map(len, held)))


def _farthest(distances: Sequence[Floats]) -> tuple[float, ...]:
    """Return the distance that few prompts of each kind exceed, given those of some of them."""
    common = float(np.quantile(np.concatenate(distances), _QUANTILE))
    return tuple(max(common, float(own.mean() + _DEVIATIONS * own.std())) for own in distances)


def _inverse(rows: Floats) -> tuple[Floats, float]:
    """Return A and the noise of the inverse covariance (1 - A^T A) / noise of centred rows."""
    scatter = float(np.square(rows, dtype=np.float64).sum()) / len(rows)
    if scatter < 1e-9:  # of vectors of length 1
        raise DataError(
            "All prompts of each kind are the same to the router's n-grams, so that their spread "
            "is not known; give prompts that differ."
        )
    noise = _SHRINKAGE * scatter / rows.shape[1]
    gram = (rows.astype(np.float64) @ rows.T) * ((1 - _SHRINKAGE) / len(rows))
    values, vectors = np.linalg.eigh(gram)
    kept = np.argsort(-values)[: min(_MOST_DIRECTIONS, int((values > 1e-9 * values.max()).sum()))]
    values, vectors = values[kept], vectors[:, kept]
    basis = (rows.T.astype(np.float64) @ vectors) * np.sqrt((1 - _SHRINKAGE) / len(rows) / values)
    found = (basis * np.sqrt(values / (values + noise))).T
    return np.ascontiguousarray(found, np.float32), noise


def _temperature(distances: Sequence[Floats]) -> float:
    """Return the largest temperature of about the least mean -log p of the prompts' own kinds."""
    found = []
    for temperature in _TEMPERATURES:
        nats = []
        for kind, own in enumerate(distances):
            scores = -0.5 * own.astype(np.float64) / temperature
            scores -= scores.max(axis=1, keepdims=True)
            nats.append((np.log(np.exp(scores).sum(axis=1)) - scores[:, kind]).mean())
        found.append(float(np.mean(nats)))
    bound = min(found) + _WORTH_NATS
    return float(max(t for t, own in zip(_TEMPERATURES, found, strict=True) if own <= bound))
