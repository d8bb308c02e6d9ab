"""k-means, from seeds that lie apart."""

import numpy as np
import numpy.typing as npt

__all__ = ["k_means", "nearest_of"]

Floats = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]
_MOST_ROUNDS = 50


def k_means(vectors: Floats, count: int, generator: np.random.Generator) -> tuple[Floats, Labels]:
    """Return centres [clusters, dim] and the cluster of each vector.

    Seeds are drawn with a chance as the square of their distance to those before (k-means++); then
    up to 50 rounds, or until no label changes. There are fewer clusters where fewer vectors differ.
    """
    centres = vectors[_seeds(vectors, count, generator)]
    labels = nearest_of(vectors, centres)
    for _ in range(_MOST_ROUNDS):
        for place in range(len(centres)):
            members = vectors[labels == place]
            if len(members):  # an empty one stays where it is
                centres[place] = members.mean(axis=0, dtype=np.float64)
        before, labels = labels, nearest_of(vectors, centres)
        if np.array_equal(before, labels):
            break
    return centres, labels


def nearest_of(vectors: Floats, centres: Floats) -> Labels:
    """Return the place of the nearest centre; the first of equals."""
    away = (centres**2).sum(axis=1) - 2 * vectors @ centres.T
    found: Labels = away.argmin(axis=1).astype(np.int64)
    return found


def _seeds(vectors: Floats, count: int, generator: np.random.Generator) -> list[int]:
    taken = [int(generator.integers(len(vectors)))]
    away = ((vectors - vectors[taken[0]]) ** 2).sum(axis=1, dtype=np.float64)
    while len(taken) < count and away.max() > 1e-9:
        taken.append(int(generator.choice(len(vectors), p=away / away.sum())))
        away = np.minimum(away, ((vectors - vectors[taken[-1]]) ** 2).sum(axis=1, dtype=np.float64))
    return taken
