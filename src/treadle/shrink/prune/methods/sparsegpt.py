"""SparseGPT's saliency; with its default update `obs` it is the whole SparseGPT."""

from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field

from treadle.core.method import Paper
from treadle.core.shapes import Float, Tensor
from treadle.shrink.prune.base import Metric, Need, Statistics

if TYPE_CHECKING:
    import torch


class SparseGPT(Metric):
    """Score a weight by the loss of removing it, later weights of its row making up for it.

    S_ij = W_ij² / U_jj², with UᵀU = (XᵀX + damping)⁻¹: section 3.1 and equation 3 of the paper.
    With its default update `obs` the scores follow the weights as they change: masks are chosen
    block by block of columns, over the whole block (pattern `tensor`, as published), over each row
    of it (`rows`), or for every m columns (`n:m`). With update `none` the scores of the untouched
    weights decide.

    Paper: Frantar and Alistarh, "SparseGPT: Massive Language Models Can Be Accurately Pruned in
    One-Shot", ICML 2023.
    """

    name: ClassVar[str] = "sparsegpt"
    needs: ClassVar[frozenset[Need]] = frozenset({"gram"})
    follows_update: ClassVar[bool] = True
    paper = Paper(
        "SparseGPT: Massive Language Models Can Be Accurately Pruned in One-Shot",
        2023,
        "https://arxiv.org/abs/2301.00774",
    )

    damp_fraction: Annotated[float, Field(gt=0.0, le=1.0)] = 0.01
    """Damping of the Hessian as a fraction of its mean diagonal; its update `obs` takes it over."""

    def default_update(self) -> dict[str, Any]:  # Any: settings of an update
        """Return `obs` with the same damping."""
        return {"method": "obs", "damp_fraction": self.damp_fraction}

    def score(
        self, weight: Float[Tensor, "out in"], statistics: Statistics, generator: "torch.Generator"
    ) -> Float[Tensor, "out in"]:
        """Return W² / diag(U)²."""
        assert statistics.inputs is not None, "needs lists 'gram'"
        diagonal = statistics.inputs.inverse_cholesky(self.damp_fraction).diagonal()
        return (weight / diagonal).square()
