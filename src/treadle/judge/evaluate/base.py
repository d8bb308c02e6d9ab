"""The protocol of a task: examples in, token losses to score; the driver runs the model."""

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, NamedTuple

from treadle.core.method import Method
from treadle.core.result import Measurement
from treadle.core.shapes import Int, Tensor

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

__all__ = ["Batch", "Prepared", "Samples", "Task"]

Samples = dict[str, list[float]]
"""One value an example and measure, in a fixed order, so that a later run can pair against them."""


class Batch(NamedTuple):
    """Token rows of equal length; padding stands at the end and is never scored."""

    tokens: Int[Tensor, "rows seq"]


class Prepared(NamedTuple):
    """A task's examples as tokens."""

    batches: list[Batch]
    protocol: dict[str, Any]  # Any: JSON values
    """Everything that makes two scores comparable; its hash travels with them."""
    state: Any  # Any: what the task's `score` needs again, private to it


class Task(Method, ABC):
    """Asks a model for token losses and turns them into scores."""

    @abstractmethod
    def prepare(self, data: str, tokenizer: "PreTrainedTokenizerBase") -> Prepared:
        """Read `data` (a path or a named text) and cut it into token rows.

        Raises:
            DataError: The data is missing, damaged or too short.
        """

    @abstractmethod
    def score(
        self, prepared: Prepared, losses: "list[torch.Tensor]"
    ) -> tuple[list[Measurement], Samples]:
        """Turn the losses [rows, seq - 1] of each batch, in nats, into scores.

        Returns measurements, and samples by example.
        """

    @abstractmethod
    def compare(self, samples: Samples, baseline: Samples, seed: int) -> list[Measurement]:
        """Return, with intervals, how these samples differ from a baseline's."""
