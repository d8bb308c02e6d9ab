"""Muon: a step of equal size in every direction of a matrix."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from treadle.core.method import Paper
from treadle.model.optimizers.base import RATE_FRACTION, Optimizer
from treadle.model.optimizers.groups import decayed_adamw

if TYPE_CHECKING:
    import torch
    from torch import nn

_Rate = Annotated[float, Field(ge=0, lt=1)]


class Muon(Optimizer):
    """Make the averaged gradient of each hidden matrix nearly orthogonal; the rest is AdamW's.

    A matrix's gradient has few large directions, in which a plain step moves it alone; made
    orthogonal it moves in all of them alike. With M = mu M + (1 - mu) G and, by Nesterov,
    X = (1 - mu) G + mu M, X / |X|_F goes through `ns_steps` turns of
    X = a X + b (X X^T) X + c (X X^T)^2 X with (a, b, c) = (3.4445, -4.775, 2.0315), in bfloat16,
    which brings every singular value near 1; then W = (1 - rate * decay) W - rate * s X. Where s is
    0.2 sqrt(max(rows, columns)) ("match_rms_adamw", Liu et al. 2025), a step is about as large as
    AdamW's, so that one learning rate serves both; the paper's own s is sqrt(max(1, rows /
    columns)) ("original"). It is `torch.optim.Muon`. Embeddings, head, vectors and stacks of
    experts, whose rows are no directions of one map, learn by AdamW.

    Paper: Jordan et al., "Muon: an optimizer for hidden layers in neural networks", 2024.
    """

    name: ClassVar[str] = "muon"
    paper = Paper(
        "Muon: an optimizer for hidden layers in neural networks",
        2024,
        "https://kellerjordan.github.io/posts/muon/",
    )

    momentum: _Rate = 0.95
    """Decay rate mu of the gradient's average."""
    nesterov: bool = True
    """Whether a step looks ahead by the newest gradient."""
    ns_steps: Annotated[int, Field(gt=0, lt=100)] = 5
    """Turns of the Newton-Schulz iteration."""
    scale: Literal["match_rms_adamw", "original"] = "match_rms_adamw"
    """How the step grows with the matrix: to AdamW's size, or as the paper has it."""
    betas: tuple[_Rate, _Rate] = (0.9, 0.95)
    """Decay rates of AdamW's averages, for what is no hidden matrix."""
    epsilon: Annotated[float, Field(gt=0)] = 1e-8
    """Added to the root of the squares' average, for what is no hidden matrix."""
    others_fraction: Annotated[float, Field(gt=0)] = 1.0
    """Learning rate of what is no hidden matrix, as a fraction of the matrices'."""

    def build(
        self, hidden: "Sequence[nn.Parameter]", others: "Sequence[nn.Parameter]"
    ) -> "list[torch.optim.Optimizer]":
        """Return Muon over the hidden matrices and AdamW over the rest."""
        import torch

        found: list[torch.optim.Optimizer] = []
        if hidden:
            muon = torch.optim.Muon(
                [{"params": list(hidden), RATE_FRACTION: 1.0}],
                weight_decay=self.weight_decay,
                momentum=self.momentum,
                nesterov=self.nesterov,
                ns_steps=self.ns_steps,
                adjust_lr_fn=self.scale,
            )
            found.append(muon)
        if others:
            found.append(
                decayed_adamw(
                    others, self.weight_decay, self.betas, self.epsilon, self.others_fraction
                )
            )
        return found
