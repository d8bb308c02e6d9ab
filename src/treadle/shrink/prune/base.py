"""The protocols of the axes with methods: one abstract function each, tensors in and out."""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, ClassVar

from treadle.core.method import Method
from treadle.core.shapes import Bool, Float, Tensor
from treadle.shrink.prune.patterns import Pattern
from treadle.shrink.prune.statistics import Need, Statistics

if TYPE_CHECKING:
    import torch

__all__ = ["Allocation", "BlockScore", "Metric", "Need", "States", "Statistics", "Update"]

States = tuple[Float[Tensor, "batch seq hidden"], Float[Tensor, "batch seq hidden"]]
"""A block's input and output."""


class Metric(Method, ABC):
    """Axis 1: how much each weight is worth. The lowest scores go."""

    needs: ClassVar[frozenset[Need]] = frozenset()
    follows_update: ClassVar[bool] = False
    """Whether an update that changes weights while it prunes chooses again from the new values."""

    def default_update(self) -> dict[str, Any]:  # Any: settings of an update
        """Return the update that belongs to the metric, as settings."""
        return {"method": "none"}

    @abstractmethod
    def score(
        self, weight: Float[Tensor, "out in"], statistics: Statistics, generator: "torch.Generator"
    ) -> Float[Tensor, "out in"]:
        """Return the worth of each weight, float32, without NaN."""


class Update(Method, ABC):
    """Axis 2: what values the surviving weights take."""

    needs: ClassVar[frozenset[Need]] = frozenset()

    @abstractmethod
    def apply(
        self,
        weight: Float[Tensor, "out in"],
        keep: "Bool[Tensor, 'out in'] | None",
        pattern: Pattern,
        sparsity: float,
        statistics: Statistics,
    ) -> Float[Tensor, "out in"]:
        """Return the pruned weights; without `keep` the update chooses under `pattern`."""


class Allocation(Method, ABC):
    """Axis 3: how sparse each block becomes."""

    needs: ClassVar[frozenset[Need]] = frozenset()

    @abstractmethod
    def allocate(
        self, blocks: Iterable[list[tuple[Float[Tensor, "_out _in"], Statistics]]], sparsity: float
    ) -> list[float]:
        """Return one sparsity per block, with mean `sparsity`; `blocks` is read once, lazily."""


class BlockScore(Method, ABC):
    """Of the action blocks: how much a whole block is worth. The lowest scores go."""

    needs_states: ClassVar[bool] = False

    @abstractmethod
    def score(
        self,
        states: States | None,
        depth: float,
        generator: "torch.Generator",
    ) -> float:
        """Return the worth of a block from its input and output, and how deep it lies, 0..1."""
