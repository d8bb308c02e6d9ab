"""What a merge method sees: one tensor of all inputs, read as runs of float32."""

from collections.abc import Iterator
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

__all__ = ["Chunk", "Floats", "Knowledge", "Site", "Unit"]

Floats = npt.NDArray[np.float32]
Unit = Literal["elements", "rows", "tensor"]
"""What must stay together in a run: nothing, runs along the last dimension, or all."""


class Chunk(NamedTuple):
    """A run of elements of one tensor, from every input."""

    first: int
    """Index of the run's first element in the flattened tensor."""
    models: Floats
    """[models, elements]; the method may overwrite them."""
    base: Floats | None
    """[elements]; not to be changed."""

    def deltas(self) -> Floats:
        """Turn `models` into task vectors, models minus base, in place: [models, elements]."""
        assert self.base is not None, "a method with task vectors must say base = 'required'"
        return np.subtract(self.models, self.base, out=self.models)


class Knowledge(Protocol):
    """What a model's own data says of one of its tensors."""

    def importance(self, first: int, target: Floats) -> None:
        """Write the mean squared gradient of the elements from `first` on into `target`."""

    def gram(self) -> Floats | None:
        """Return X^T X [in, in] of the inputs of a matrix; None where the tensor is no matrix."""

    def coefficient(self) -> float:
        """Return the factor of the model's task vector that was learned for the layer."""

    @property
    def is_transposed(self) -> bool:
        """Whether the matrix lies as [in, out] and not as [out, in]."""


class Site(Protocol):
    """One tensor of the output, with its namesakes in the inputs."""

    @property
    def name(self) -> str:
        """The tensor's name in the output."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape, the same in every input."""

    @property
    def keys(self) -> tuple[int, ...]:
        """One key of random streams for each model; it differs by seed, model and tensor."""

    @property
    def knowledge(self) -> tuple[Knowledge, ...]:
        """For methods with `needs`: what the data of each model says of the tensor."""

    @property
    def is_transposed(self) -> bool:
        """For methods with `reads_matrices`: whether it lies as [in, out], not as [out, in]."""

    @property
    def surveyed(self) -> Any:  # Any: private to the method
        """For methods that look ahead: what `survey` returned."""

    def chunks(self, unit: Unit) -> Iterator[Chunk]:
        """Read the inputs once, in order, in runs that hold whole units; chunks are reused."""
