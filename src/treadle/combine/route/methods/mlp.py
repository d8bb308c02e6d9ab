"""MLP: how likely each model is right, by a small network."""

from collections.abc import Iterator
from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field

from treadle.combine.route.base import Learned, RouteData
from treadle.combine.route.maths.descent import Batch, TrainedRoute, as_shares, drawn
from treadle.core.method import Standard
from treadle.core.seed import torch_stream
from treadle.runtime.routed.queries.scorers import PerceptronScores

__all__ = ["Mlp"]


class Mlp(TrainedRoute):
    """Learn by cross-entropy how likely each model is right, with one hidden layer.

    p(q) = sigmoid(W relu(V q + v) + b), one binary cross-entropy for each model that was asked; the
    score is the target.
    """

    name: ClassVar[str] = "mlp"
    paper = Standard("Hu et al., RouterBench, 2024, section 4 (the predictive MLP router).")

    hidden: Annotated[int, Field(ge=1)] = 128
    """Units of the hidden layer."""

    def learn(self, data: RouteData, seed: int) -> Iterator[Learned]:
        """Yield the router after every so many steps."""
        import torch

        stream = torch_stream(seed, "mlp")
        vectors = torch.from_numpy(data.vectors)
        worth = as_shares(data.worth)
        wanted = torch.from_numpy(np.nan_to_num(worth).astype(np.float32))
        known = torch.from_numpy(np.isfinite(worth).astype(np.float32))
        inner = drawn((self.hidden, vectors.shape[1]), 1.0, stream)
        shift = drawn((self.hidden,), 0.0, stream)
        outer = drawn((data.num_models, self.hidden), self.hidden**-0.5, stream)
        bias = drawn((data.num_models,), 0.0, stream)

        def loss(places: Batch) -> torch.Tensor:
            logits = torch.relu(vectors[places] @ inner.T + shift) @ outer.T + bias
            each = torch.nn.functional.binary_cross_entropy_with_logits(
                logits, wanted[places], known[places], reduction="sum"
            )
            return each / known[places].sum().clamp(min=1)

        parameters = (inner, shift, outer, bias)
        for step, mean in self.descend(parameters, loss, len(vectors), seed):
            arrays = [one.detach().numpy().copy() for one in parameters]
            yield Learned(PerceptronScores(*arrays), step, mean)
