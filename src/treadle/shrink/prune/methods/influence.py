"""Block influence: a block is worth what it changes."""

from typing import TYPE_CHECKING, ClassVar

from treadle.core.method import Paper
from treadle.shrink.prune.base import BlockScore, States

if TYPE_CHECKING:
    import torch


class Influence(BlockScore):
    """Score a block by how far it turns its input: 1 - E cos(x_l, x_{l+1}) over all tokens.

    Equation 1 of the paper: hidden states before and after a block whose directions are alike say
    that it does little. The first and the last block are never asked here.

    Paper: Men et al., "ShortGPT: layers in large language models are more redundant than you
    expect", 2024.
    """

    name: ClassVar[str] = "influence"
    needs_states: ClassVar[bool] = True
    paper = Paper(
        "ShortGPT: layers in large language models are more redundant than you expect",
        2024,
        "https://arxiv.org/abs/2403.03853",
    )

    def score(
        self,
        states: States | None,
        depth: float,
        generator: "torch.Generator",
    ) -> float:
        """Return 1 - the mean cosine, in float64."""
        assert states is not None
        before, after = states
        products = (before * after).sum(dim=-1).double()
        sizes = before.norm(dim=-1).double() * after.norm(dim=-1).double()
        return 1 - float((products / sizes.clamp_min(1e-30)).mean())
