"""Round to nearest."""

from typing import TYPE_CHECKING, ClassVar

import numpy as np

from treadle.core.method import Standard
from treadle.core.shapes import Float, Tensor
from treadle.shrink.quantize.base import Quantizer, Scheme
from treadle.shrink.quantize.rounding import cover, on_grid

if TYPE_CHECKING:
    import torch

    from treadle.model.grid import Grid

__all__ = ["RTN"]


class RTN(Quantizer):
    """Round each weight to the nearest code of its group's grid.

    The grid covers the group's whole range, and no weight knows of another one or of the data:
    q = round(w / s) + z. Ties go to the even code. It is what every other quantizer is measured
    against.
    """

    name: ClassVar[str] = "rtn"
    paper = Standard("Rounding: the baseline of GPTQ, AWQ and all that followed.")

    def quantize(
        self, weight: Float[Tensor, "out in"], scheme: Scheme, generator: "torch.Generator"
    ) -> "Grid":
        """Return the nearest codes."""
        values = weight.numpy()
        grid = cover(values, scheme)
        return on_grid(grid, np.rint(grid.positions(values)))
