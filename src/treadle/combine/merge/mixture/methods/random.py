"""random: a gate that knows nothing."""

from typing import ClassVar

import numpy as np

from treadle.combine.merge.mixture.base import MadeGate, Reads, RoutedMlp, Router
from treadle.combine.merge.mixture.contrast import unit
from treadle.core.method import Control

__all__ = ["RandomGate"]


class RandomGate(Router):
    """Send tokens to experts by directions drawn at random.

    What another router gains must be more than that of sending tokens anywhere: g_e = z / ‖z‖ with
    z ~ N(0, I), of the same length as the rows of routers with prompts.
    """

    name: ClassVar[str] = "random"
    paper = Control("mergekit-moe's gate_mode random, at length 1: routing without knowledge")

    @property
    def reads(self) -> Reads:
        """Nothing."""
        return "nothing"

    def gate(self, mlp: RoutedMlp) -> MadeGate:
        """Return drawn directions."""
        drawn = mlp.draw.standard_normal((mlp.num_experts, mlp.hidden), dtype=np.float32)
        return MadeGate(np.stack([unit(row) for row in drawn]))
