"""Matrix factorisation: a vector for each model, of which a query takes what it needs."""

from collections.abc import Iterator
from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field

from treadle.combine.route.base import Learned, RouteData
from treadle.combine.route.maths.descent import Batch, TrainedRoute, as_shares, drawn
from treadle.core.method import Paper
from treadle.core.seed import torch_stream
from treadle.runtime.routed.queries.scorers import LinearScores

__all__ = ["MatrixFactorisation"]


class MatrixFactorisation(TrainedRoute):
    """Learn a short vector for each model, whose product with the query's says if it is right.

    logit_t(q) = w . (p_t * (U q + u)) + c, trained by binary cross-entropy with normal noise on the
    query. Since that is linear in q, the router is one matrix [models, dim] of rank at most `rank`.
    We differ from the paper in soft targets (the score itself) and in one output of two.

    Paper: EmbedLLM: learning compact representations of large language models, 2024.
    """

    name: ClassVar[str] = "matrix"
    paper = Paper(
        "EmbedLLM: Learning Compact Representations of Large Language Models",
        2024,
        "https://arxiv.org/abs/2410.02223",
    )

    rank: Annotated[int, Field(ge=1)] = 64
    """Length of a model's vector."""
    rate: Annotated[float, Field(gt=0)] = 1e-2
    """Learning rate of AdamW."""
    noise: Annotated[float, Field(ge=0)] = 0.3
    """Length, about, of what is added to a query's vector (of length 1) in training."""

    def learn(self, data: RouteData, seed: int) -> Iterator[Learned]:
        """Yield the router after every so many steps."""
        import torch

        stream = torch_stream(seed, "matrix")
        vectors = torch.from_numpy(data.vectors)
        worth = as_shares(data.worth)
        wanted = torch.from_numpy(np.nan_to_num(worth).astype(np.float32))
        known = torch.from_numpy(np.isfinite(worth).astype(np.float32))
        dim = vectors.shape[1]
        inner = drawn((self.rank, dim), 1.0, stream)
        shift = drawn((self.rank,), 0.0, stream)
        models = drawn((data.num_models, self.rank), 1.0, stream)
        mixed = drawn((self.rank,), self.rank**-0.5, stream)
        usual = drawn((1,), 0.0, stream)
        scale = self.noise / dim**0.5

        def loss(places: Batch) -> torch.Tensor:
            rows = vectors[places] + scale * torch.randn(len(places), dim, generator=stream)
            logits = (rows @ inner.T + shift) @ (models * mixed).T + usual
            each = torch.nn.functional.binary_cross_entropy_with_logits(
                logits, wanted[places], known[places], reduction="sum"
            )
            return each / known[places].sum().clamp(min=1)

        parameters = (inner, shift, models, mixed, usual)
        for step, mean in self.descend(parameters, loss, len(vectors), seed):
            with torch.no_grad():
                weighted = models * mixed
                weight, bias = weighted @ inner, weighted @ shift + usual
            yield Learned(LinearScores(weight.numpy(), bias.numpy()), step, mean)
