"""The optimal-brain-surgeon update, column by column."""

from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from treadle.core.keep import num_pruned
from treadle.core.method import Paper
from treadle.core.shapes import Bool, Float, Tensor
from treadle.model.obs import solve_columns
from treadle.shrink.prune.base import Need, Statistics, Update
from treadle.shrink.prune.patterns import Pattern, choose

if TYPE_CHECKING:
    import torch


class OBS(Update):
    """Let the later weights of a row make up for each one that is removed.

    Going through the columns j in order, with UᵀU = (XᵀX + damping)⁻¹: a removed weight leaves the
    error e_j = W_j / U_jj, and every later column changes by -e_j · U_j,j+1: (algorithm 1 of the
    paper). Given a mask from any metric it repairs that mask; without one it chooses by W_j² /
    U_jj² while it goes, which is SparseGPT. Columns are processed in blocks; the effect on later
    blocks is one matrix product a block. Channels that never fired lose their weights. Float32
    throughout.

    Paper: Frantar and Alistarh, "SparseGPT: Massive Language Models Can Be Accurately Pruned in
    One-Shot", ICML 2023.
    """

    name: ClassVar[str] = "obs"
    needs: ClassVar[frozenset[Need]] = frozenset({"gram"})
    paper = Paper(
        "SparseGPT: Massive Language Models Can Be Accurately Pruned in One-Shot",
        2023,
        "https://arxiv.org/abs/2301.00774",
    )

    damp_fraction: Annotated[float, Field(gt=0.0, le=1.0)] = 0.01
    """Damping of the Hessian, as a fraction of its mean diagonal."""
    block_columns: Annotated[int, Field(ge=1, le=256)] = 128
    """Columns a block; masks chosen on the way compare the scores of one block."""

    def apply(
        self,
        weight: Float[Tensor, "out in"],
        keep: "Bool[Tensor, 'out in'] | None",
        pattern: Pattern,
        sparsity: float,
        statistics: Statistics,
    ) -> Float[Tensor, "out in"]:
        """Return the pruned and repaired weights."""
        assert statistics.inputs is not None, "needs lists 'gram'"

        def solve(block: "torch.Tensor", upper: "torch.Tensor", first: int) -> "torch.Tensor":
            mask = None if keep is None else keep[:, first : first + block.shape[1]]
            return self._block(block, upper, mask, pattern, sparsity, first)

        return solve_columns(
            weight,
            statistics.inputs,
            solve,
            damp_fraction=self.damp_fraction,
            block_columns=self._width(pattern if keep is None else None),
        )

    def _width(self, chosen: Pattern | None) -> int:
        """Return the columns a block: with n:m chosen on the way, a multiple of m."""
        if chosen is None or chosen.kind != "n:m":
            return self.block_columns
        return max(1, self.block_columns // chosen.m) * chosen.m

    def _block(
        self,
        block: "torch.Tensor",
        upper: "torch.Tensor",
        keep: "torch.Tensor | None",
        pattern: Pattern,
        sparsity: float,
        first: int,
    ) -> "torch.Tensor":
        """Prune `block` in place and return its errors [out, columns]."""
        import torch

        from treadle import native

        values, factor, threads = block.numpy(), upper.numpy(), torch.get_num_threads()
        error = torch.empty(block.shape)
        if keep is None and pattern.kind == "n:m":
            mask = torch.empty(block.shape, dtype=torch.bool).numpy()
            native.obs_block_n_of_m(
                values, factor, pattern.n, pattern.m, mask, error.numpy(), num_threads=threads
            )
            return error
        if keep is None:
            keep = _lowest(block, upper.diagonal(), pattern, sparsity, first)
        native.obs_block(values, factor, keep.numpy(), error.numpy(), num_threads=threads)
        return error


def _lowest(
    block: "torch.Tensor",
    diagonal: "torch.Tensor",
    pattern: Pattern,
    sparsity: float,
    first: int,
) -> "torch.Tensor":
    """Choose the mask of one block of columns from its current weights.

    Rows lose floor(last·s) - floor(first·s) of the block's columns, so that the whole row loses
    floor(in·s).
    """
    score = (block / diagonal).square()
    if pattern.kind == "rows":
        width = block.shape[1]
        count = num_pruned(first + width, sparsity) - num_pruned(first, sparsity)
        return choose(score, pattern, count / width)
    return choose(score, pattern, sparsity)
