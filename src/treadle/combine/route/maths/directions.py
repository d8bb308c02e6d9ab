"""The directions in which questions differ: many features become few."""

import numpy as np
import numpy.typing as npt

from treadle.core.ports import Embedder
from treadle.core.progress import steps
from treadle.core.seed import numpy_stream

__all__ = ["Space", "spanned"]

Floats = npt.NDArray[np.float32]
_MOST_SEEN = 4096
"""Questions that the directions are found on, drawn by the seed: 130 MB of n-grams."""
_MORE = 16
"""Directions that are followed beside those that are wanted."""
_ROUNDS = 3
_BATCH = 512


class Space:
    """Vectors of questions, in the directions of the training questions."""

    def __init__(self, embedder: Embedder, projection: Floats | None) -> None:
        self.embedder, self.projection = embedder, projection

    def vectors(self, questions: list[str]) -> Floats:
        """Return the vectors [questions, dim], at length 1."""
        from treadle.runtime.routed.queries.query import projected

        found = []
        with steps("read questions", len(questions)) as bar:
            for start in range(0, len(questions), _BATCH):
                batch = questions[start : start + _BATCH]
                found.append(projected(self.embedder.embed(batch), self.projection))
                bar.advance(len(batch))
        dim = self.embedder.dim if self.projection is None else self.projection.shape[1]
        return np.concatenate(found) if found else np.zeros((0, dim), np.float32)


def spanned(embedder: Embedder, questions: list[str], most: int, seed: int) -> Space:
    """Return the space of the directions with the largest part in training questions.

    They are right singular vectors by power iteration with a random start (Halko et al. 2011), not
    centred. Where the embedder has no more dimensions than `most`, vectors stay as they are.
    """
    if embedder.dim <= most:
        return Space(embedder, None)
    generator = numpy_stream(seed, "directions")
    seen = sorted(generator.permutation(len(questions))[:_MOST_SEEN].tolist())
    rows = Space(embedder, None).vectors([questions[place] for place in seen])
    wanted = min(most, len(rows))
    basis = generator.standard_normal((rows.shape[1], wanted + _MORE)).astype(np.float32)
    for _ in range(_ROUNDS):
        basis = np.linalg.qr(rows.T @ (rows @ basis))[0].astype(np.float32)
    _, _, turned = np.linalg.svd(rows @ basis, full_matrices=False)
    return Space(embedder, np.ascontiguousarray((basis @ turned.T)[:, :wanted], np.float32))
