"""Training on batches of questions: what several ways of routing share."""

from abc import ABC
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Annotated

import numpy as np
import numpy.typing as npt
from pydantic import Field

from treadle.combine.route.base import RouteMethod
from treadle.core.seed import numpy_stream

if TYPE_CHECKING:
    import torch

__all__ = ["Batch", "TrainedRoute", "as_shares", "drawn"]

Batch = npt.NDArray[np.int64]
"""Places of questions."""


class TrainedRoute(RouteMethod, ABC):
    """A router that is trained in steps, of which the best one is kept."""

    steps: Annotated[int, Field(ge=1)] = 1000
    """Batches to train on."""
    batch: Annotated[int, Field(ge=1)] = 64
    """Questions of a batch."""
    rate: Annotated[float, Field(gt=0)] = 1e-3
    """Learning rate of AdamW."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    """Of AdamW."""
    every: Annotated[int, Field(ge=1)] = 50
    """Steps after which the router is scored and saved."""

    def descend(
        self,
        parameters: "Sequence[torch.Tensor]",
        loss: "Callable[[Batch], torch.Tensor]",
        num_questions: int,
        seed: int,
    ) -> Iterator[tuple[int, float]]:
        """Train, and yield the step and the mean loss since the last one.

        Every question is in one batch of each round; rounds are drawn by the seed.
        """
        import torch

        optimizer = torch.optim.AdamW(
            list(parameters), lr=self.rate, weight_decay=self.weight_decay
        )
        stream, queue = numpy_stream(seed, "batches"), np.zeros(0, np.int64)
        losses: list[float] = []
        for step in range(1, self.steps + 1):
            while len(queue) < min(self.batch, num_questions):
                queue = np.concatenate([queue, stream.permutation(num_questions)])
            places, queue = queue[: self.batch], queue[self.batch :]
            optimizer.zero_grad()
            value = loss(places)
            torch.autograd.backward(value)
            optimizer.step()
            losses.append(float(value.detach()))
            if step % self.every == 0 or step == self.steps:
                yield step, float(np.mean(losses))
                losses.clear()


def as_shares(worth: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return what answers are worth in 0..1, as chances are; scores as they are, others scaled.

    Where cost takes the worth below zero, the least becomes 0 and the largest 1: which one is
    better stays.
    """
    least, most = float(np.nanmin(worth)), float(np.nanmax(worth))
    if least >= 0 and most <= 1:
        return worth
    return (worth - least) / max(most - least, 1e-12)


def drawn(shape: tuple[int, ...], scale: float, generator: "torch.Generator") -> "torch.Tensor":
    """Return a parameter of normal numbers in float32."""
    import torch

    return (torch.randn(shape, generator=generator) * scale).requires_grad_()
