"""Optimal brain surgery on a matrix: columns change in order, and later ones make up for it.

Pruning solves a block of columns by zeros, quantisation by codes; what is left of the error is
spread over the columns to come, with the same factor of the inverse Hessian (OBS, Hassibi and
Stork, 1993; in columns: OBC and GPTQ, Frantar et al., 2022, https://arxiv.org/abs/2208.11580).
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from treadle.core.errors import SettingsError
from treadle.core.shapes import Float, Tensor
from treadle.model.statistics import InputStatistics

if TYPE_CHECKING:
    import torch

__all__ = ["Solve", "solve_columns"]

Solve = Callable[["torch.Tensor", "torch.Tensor", int], "torch.Tensor"]
"""Changes a block of columns [out, columns] in place. It is given the block, its part of the factor
U [columns, columns] and the number of its first column, and returns the errors [out, columns]:
(w_j - q_j) / U_jj, with each w_j as the columns before it left it."""


def solve_columns(
    weight: Float[Tensor, "out in"],
    inputs: InputStatistics,
    solve: Solve,
    *,
    damp_fraction: float,
    block_columns: int,
) -> Float[Tensor, "out in"]:
    """Return the weights after every block of columns was solved, from left to right.

    With UᵀU = (XᵀX + damping)⁻¹, the columns right of a block change by -E · U[block, right], one
    matrix product a block. Channels that never fired lose their weights. Float32 throughout.

    Args:
        weight: The matrix; it is left as it was.
        inputs: Statistics with the Gram matrix XᵀX of what it reads.
        solve: Solves one block.
        damp_fraction: Damping of the Hessian, as a fraction of its mean diagonal.
        block_columns: Columns a block.

    Raises:
        SettingsError: A block has no column, or the weights are not float32.
    """
    import torch

    if block_columns < 1:
        raise SettingsError(f"Found block_columns={block_columns}; give at least 1.")
    if weight.dtype != torch.float32:
        raise SettingsError(f"Found weights of {weight.dtype}; convert them with .float().")
    upper = inputs.inverse_cholesky(damp_fraction)
    weight = weight.clone(memory_format=torch.contiguous_format)
    weight[:, inputs.gram.diagonal() == 0] = 0.0
    for first in range(0, weight.shape[1], block_columns):
        last = min(first + block_columns, weight.shape[1])
        inner = upper[first:last, first:last].contiguous()
        error = solve(weight[:, first:last], inner, first)
        if last < weight.shape[1]:
            weight[:, last:].addmm_(error, upper[first:last, last:], alpha=-1.0)
    return weight
