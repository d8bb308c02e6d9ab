"""The protocols of tuning: what is lowered, and what learns; optimizers are `model`'s own axis."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple

from treadle.core.method import Method
from treadle.core.shapes import Float, Int, Tensor

if TYPE_CHECKING:
    import torch

__all__ = ["Learner", "Predictions", "TeacherSays", "Tuning"]


class TeacherSays(NamedTuple):
    """What a teacher makes of each place: all logits, or its likeliest tokens."""

    logits: Float[Tensor, "places vocab"] | None = None
    ids: Int[Tensor, "places top"] | None = None
    log_probs: Float[Tensor, "places top"] | None = None
    """Of `ids`; the other tokens share what is left of 1."""


class Predictions(NamedTuple):
    """What a model says at the places of some documents at which it is asked."""

    logits: Float[Tensor, "places vocab"]
    targets: Int[Tensor, "places"]
    """The tokens that stand there."""
    documents: Int[Tensor, "places"]
    """The number of the document of each place; of a pair the chosen one comes first."""
    num_documents: int
    reference: Float[Tensor, "documents"] | None = None
    """Log-probability of each document's answer by the model before it was tuned."""
    teacher: TeacherSays | None = None


class Tuning(Method, ABC):
    """Says how far a model is from what it shall become."""

    learning_rate: ClassVar[float] = 5e-5
    """Default of a model all of whose weights learn."""
    takes: ClassVar[Literal["answers", "pairs"]] = "answers"
    has_teacher: ClassVar[bool] = False

    @abstractmethod
    def loss(self, found: Predictions) -> "torch.Tensor":
        """Return the mean loss of the places, in nats; for pairs that of the pairs."""


class Learner(Method, ABC):
    """Says which weights learn."""

    rate_factor: ClassVar[float] = 1.0
    """Times the method's default learning rate: few weights have farther to go."""
    is_adapter: ClassVar[bool] = False
    """Whether factors learn beside the matrices that are named, and are what is written."""

    @abstractmethod
    def names(self, shapes: Mapping[str, tuple[int, ...]]) -> list[str]:
        """Return the names of those that learn, of all parameters by their names.

        An adapter is shown the blocks' matrices alone.
        """
