"""The protocol of a quantizer: a matrix in, its codes on a grid out."""

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, NamedTuple

from treadle.core.method import Method
from treadle.core.shapes import Float, Tensor

if TYPE_CHECKING:
    import torch

    from treadle.model.grid import Grid

__all__ = ["Quantizer", "Scheme"]


class Scheme(NamedTuple):
    """The grid that every matrix is put on."""

    num_bits: int
    group_columns: int
    """Neighbouring columns of a row that share a scale; 0: the whole row."""
    is_symmetric: bool
    """Whether the middle code stands for 0; otherwise each group has a zero point of its own."""
    scale_dtype: str
    """safetensors' code of the dtype in which scales are stored."""


class Quantizer(Method, ABC):
    """Decides to which code each weight is rounded."""

    @abstractmethod
    def quantize(
        self, weight: Float[Tensor, "out in"], scheme: Scheme, generator: "torch.Generator"
    ) -> "Grid":
        """Return the codes, zero points and scales of a finite float32 matrix."""
