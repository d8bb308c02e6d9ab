"""Rounding up or down by a coin."""

from typing import TYPE_CHECKING, ClassVar

import numpy as np

from treadle.core.method import Control
from treadle.core.shapes import Float, Tensor
from treadle.shrink.quantize.base import Quantizer, Scheme
from treadle.shrink.quantize.rounding import cover, on_grid

if TYPE_CHECKING:
    import torch

    from treadle.model.grid import Grid

__all__ = ["Random"]


class Random(Quantizer):
    """Round each weight up or down by a fair coin, wherever between two codes it lies.

    The grids are those of rtn, so the difference between the two is what choosing a code is worth.
    A weight that lies on a code keeps it.
    """

    name: ClassVar[str] = "random"
    paper = Control("How much the choice between the two neighbouring codes matters.")

    def quantize(
        self, weight: Float[Tensor, "out in"], scheme: Scheme, generator: "torch.Generator"
    ) -> "Grid":
        """Return one of the two neighbouring codes of each weight."""
        import torch

        values = weight.numpy()
        grid = cover(values, scheme)
        positions = grid.positions(values)
        below = np.floor(positions)
        is_up = (torch.rand(weight.shape, generator=generator) < 0.5).numpy()
        return on_grid(grid, below + (is_up & (positions > below)))
