"""AdamW: a step of equal size for every weight."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from treadle.core.method import Paper
from treadle.model.optimizers.base import Optimizer
from treadle.model.optimizers.groups import decayed_adamw

if TYPE_CHECKING:
    import torch
    from torch import nn

_Rate = Annotated[float, Field(ge=0, lt=1)]


class AdamW(Optimizer):
    """Divide the mean gradient of each weight by its root mean square; decay beside it.

    The size of a gradient cancels out, so that one learning rate serves all weights; the decay acts
    on the weights themselves and not through the gradient's averages. Algorithm 2 of the paper:
    m = b1 m + (1 - b1) g, v = b2 v + (1 - b2) g^2, and, with both averages divided by their
    weights' sum 1 - b^t, w = (1 - rate * decay) w - rate * m / (sqrt(v) + epsilon). Here vectors do
    not decay, and the second decay rate is 0.95 and not 0.999, as is usual for language models.

    Paper: Loshchilov and Hutter, "Decoupled weight decay regularization", 2019.
    """

    name: ClassVar[str] = "adamw"
    paper = Paper("Decoupled weight decay regularization", 2019, "https://arxiv.org/abs/1711.05101")

    betas: tuple[_Rate, _Rate] = (0.9, 0.95)
    """Decay rates of the averages of the gradient and of its square."""
    epsilon: Annotated[float, Field(gt=0)] = 1e-8
    """Added to the root of the squares' average."""

    def build(
        self, hidden: "Sequence[nn.Parameter]", others: "Sequence[nn.Parameter]"
    ) -> "list[torch.optim.Optimizer]":
        """Return one AdamW over all parameters."""
        return [
            decayed_adamw([*hidden, *others], self.weight_decay, self.betas, self.epsilon),
        ]
