"""trained: each token goes where the expert is at home that foresees best what follows it."""

from typing import ClassVar

import numpy as np

from treadle.combine.merge.mixture.base import MadeGate, Reads, RoutedMlp, Router
from treadle.combine.merge.mixture.contrast import unit
from treadle.core.method import Paper

__all__ = ["Trained"]

_MOST = 4.0
"""Nats: a token that one expert foresees far better than the others counts as much as this."""


class Trained(Router):
    """Send a token to the expert that foresees best what follows tokens like it.

    A text of all the experts' kinds shows which expert is best where. The paper trains a gate
    towards the expert of the least loss, step by step; here it is made in closed form of the means
    of what enters each MLP: with the loss L_e of model e alone, and a_e(x) = min(second least loss
    - L_e, 4 nats) where e has the least one and 0 elsewhere, x̄_e = Σ a_e(x) x / Σ a_e(x), and
    g_e = (x̄_e - x̄) / ‖x̄_e - x̄‖ with x̄ the mean over experts. result.json says for how many of the
    text's tokens it chooses the expert of the least loss.

    Paper: Jacobs et al., 1991.
    """

    name: ClassVar[str] = "trained"
    paper = Paper(
        "Adaptive Mixtures of Local Experts", 1991, "https://doi.org/10.1162/neco.1991.3.1.79"
    )

    @property
    def reads(self) -> Reads:
        """What enters the MLP of a text's tokens, and the experts' losses on them."""
        return "losses"

    def gate(self, mlp: RoutedMlp) -> MadeGate:
        """Return the direction of each expert's tokens."""
        losses, inputs = mlp.losses.astype(np.float64), mlp.inputs.astype(np.float64)
        best = np.argmin(losses, axis=1)
        order = np.sort(losses, axis=1)
        lead = order[:, 1] - order[:, 0] if mlp.num_experts > 1 else np.ones(len(losses))
        gains = np.minimum(lead, _MOST)[:, None] * (best[:, None] == np.arange(mlp.num_experts))
        totals = gains.sum(axis=0)[:, None]
        means = gains.T @ inputs / np.where(totals > 0, totals, 1.0)
        is_heard = totals[:, 0] > 0
        if is_heard.sum() > 1:
            means[is_heard] -= means[is_heard].mean(axis=0)
        rows = np.stack([unit(row) for row in means.astype(np.float32)])
        return MadeGate(rows, float(np.mean(np.argmax(inputs @ rows.T, axis=1) == best)))
