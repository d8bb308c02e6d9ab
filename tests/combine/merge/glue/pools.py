"""A pool whose best weights are known; not a test itself."""

import numpy as np

from treadle.combine.merge.glue.base import Weights
from treadle.core.seed import numpy_stream


class Bowl:
    """The score is the squared distance from known weights, in the mean over groups.

    Args:
        target: [groups, models] the best weights.
        seed: Of what a search draws.
    """

    def __init__(self, target: list[list[float]], seed: int = 0) -> None:
        self.target = np.array(target)
        self.num_models, self.num_layers = self.target.shape[1], 8
        self.alike = np.eye(self.num_models)
        self.generator = numpy_stream(seed, "bowl")
        self.asked: list[tuple[Weights, float]] = []

    @property
    def singles(self) -> np.ndarray:
        return np.array(
            [self.score(np.eye(self.num_models)[n][None]) for n in range(self.num_models)]
        )

    def score(self, weights: Weights, share: float = 1.0) -> float:
        assert np.allclose(weights.sum(axis=1), 1)
        assert (weights >= 0).all()
        self.asked.append((weights, share))
        return float(np.square(weights - self.target).mean(axis=0).sum())
