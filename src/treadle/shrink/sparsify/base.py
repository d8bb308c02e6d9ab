"""The protocol of the family: one abstract function, tensors in and out; and what a method says."""

from abc import ABC, abstractmethod
from typing import Annotated, ClassVar, Literal, NamedTuple

from pydantic import Field

from treadle.core.method import Method
from treadle.core.shapes import Bool, Float, Tensor

__all__ = ["HeadDesign", "HeadTraining", "Target"]

Target = Literal["cis", "kvzip", "kvzip+"]
"""What heads learn to foretell (see `targets`)."""


class HeadDesign(NamedTuple):
    """What heads are, and how they are trained."""

    kind: Literal["linear", "mlp", "gate"]
    reads: Literal["projections", "hidden"]
    solver: Literal["adamw", "sgd", "ridge"]
    """Ridge has the best answer at once, from sums over all tokens."""
    activation: Literal["silu", "gelu", "relu"] = "silu"
    has_biases: bool = False
    most_width: int = 1024
    """Of an mlp."""
    input_fraction: float = 1.0
    """Of its inputs, what an mlp's width is where nothing bounds it."""
    betas: tuple[float, float] = (0.9, 0.999)
    momentum: float = 0.0
    warmup_fraction: float = 0.0
    """Of the steps, in which the rate rises."""
    decay: Literal["linear", "cosine"] = "linear"
    clip_value: float | None = None
    """Of each gradient."""
    clip_norm: float | None = None
    """Of all gradients together."""
    batch_tokens: int | None = None
    """Of a step; None: a whole sample."""


class HeadTraining(Method, ABC):
    """How heads learn what a token's entries in the cache will be worth."""

    own_design: ClassVar[HeadDesign]

    target: Target = "cis"
    """What the heads foretell: cis, kvzip, or kvzip+."""
    learning_rate: Annotated[float, Field(gt=0.0)] = 5e-4
    """The highest of the schedule."""
    passes: Annotated[int, Field(ge=1)] = 1
    """Times that each sample is learned while it is in memory."""

    def design(self) -> HeadDesign:
        """Return what the heads are, and how they are trained."""
        return self.own_design

    def aim(self, target: Float[Tensor, "tokens kv_heads"]) -> Float[Tensor, "tokens kv_heads"]:
        """Return what scores are to equal: the target, where a method says nothing else."""
        return target

    @abstractmethod
    def loss(
        self,
        scores: Float[Tensor, "tokens kv_heads"],
        aim: Float[Tensor, "tokens kv_heads"],
        is_seen: Bool[Tensor, "tokens kv_heads"],
        num_layers: int,
    ) -> Float[Tensor, ""]:
        """Return the loss of one layer; only where `is_seen` does the target say anything."""
