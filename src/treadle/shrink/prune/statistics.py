"""What calibration knows about one matrix, and which of it a method may ask for."""

from typing import TYPE_CHECKING, Literal, NamedTuple

from treadle.core.shapes import Float, Tensor

if TYPE_CHECKING:
    from treadle.model.statistics import InputStatistics

__all__ = ["Need", "Statistics"]

Need = Literal["squares", "gram", "gradient"]
"""squares: Σx² per input channel; gram: XᵀX; gradient: sqrt(Σ g²) per weight, from a full backward
pass."""


class Statistics(NamedTuple):
    """What calibration knows about one matrix; None where its methods did not ask."""

    inputs: "InputStatistics | None" = None
    gradient: "Tensor | None" = None

    @property
    def input_norm(self) -> Float[Tensor, "in"]:
        """The Euclidean norm of each input channel over all calibration tokens."""
        assert self.inputs is not None, "the metric must list 'squares' in needs"
        return self.inputs.sum_squares.sqrt()
