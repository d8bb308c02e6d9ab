"""The protocol of merging: one abstract function, chunks of float32 in, a chunk out."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
from pydantic import BeforeValidator

from treadle.core.method import Method

__all__ = ["Chunk", "Floats", "MergeMethod", "PerModel", "Site", "Unit"]

Floats = npt.NDArray[np.float32]
Unit = Literal["elements", "rows", "tensor"]
"""What must stay together in a run: nothing, runs along the last dimension, or all."""


def _as_tuple(value: Any) -> Any:  # Any: whatever a recipe holds, checked next
    return value if isinstance(value, list | tuple) else (value,)


PerModel = Annotated[tuple[float, ...], BeforeValidator(_as_tuple)]
"""One value for all models, or one for each in their order (without the base)."""


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

    def chunks(self, unit: Unit) -> Iterator[Chunk]:
        """Read the inputs once, in order, in runs that hold whole units; chunks are reused."""


class MergeMethod(Method, ABC):
    """How namesake tensors become one; an instance holds the settings for one tensor."""

    base: ClassVar[Literal["required", "first", "optional", "unused"]] = "unused"
    """Whether a base is needed; "first" takes the first model where none is named. A base that is
    also listed as a model is not among the `models` of a chunk, unless it is "unused"."""
    num_models: ClassVar[tuple[int, int | None]] = (1, None)
    """How many models, without the base, the method can merge: at least, at most."""
    unit: ClassVar[Unit] = "elements"

    def measure(self, site: Site) -> Any:  # Any: private to the method
        """Read the tensor once or more and return what `merge` needs to know of all of it."""
        return None

    @abstractmethod
    def merge(self, chunk: Chunk, site: Site, known: Any) -> Floats:  # Any: from `measure`
        """Return the merged run [elements]; runs come in order, `known` is from `measure`."""
