"""The protocol of an optimizer: parameters in, what updates them out; the loop sets the rates."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from treadle.core.method import Method

if TYPE_CHECKING:
    import torch
    from torch import nn

__all__ = ["RATE_FRACTION", "Optimizer"]

RATE_FRACTION = "rate_fraction"
"""Key of a parameter group: the fraction of the schedule's learning rate that it learns with."""


class Optimizer(Method, ABC):
    """Moves parameters along their gradients."""

    weight_decay: Annotated[float, Field(ge=0)] = 0.1
    """Decoupled decay of matrices; vectors (norms, biases) do not decay."""

    @abstractmethod
    def build(
        self, hidden: "Sequence[nn.Parameter]", others: "Sequence[nn.Parameter]"
    ) -> "list[torch.optim.Optimizer]":
        """Return torch's optimizers, which hold each parameter once.

        Their state must be a function of the gradients alone, since it is saved and put back. The
        loop sets the learning rate of each group before a step: the schedule's, times the group's
        `rate_fraction`.

        Args:
            hidden: Matrices between two hidden states; one of the two lists may be empty.
            others: Embeddings, head, vectors, and stacks of matrices.
        """
