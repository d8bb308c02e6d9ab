"""cheap_embed: the words of an expert's prompts, the same in all layers."""

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from treadle.combine.merge.mixture.base import MadeGate, Reads, RoutedMlp, Router
from treadle.combine.merge.mixture.contrast import Negatives, contrasted, unit
from treadle.combine.merge.site import Floats
from treadle.core.method import Standard

__all__ = ["CheapEmbedding"]


class CheapEmbedding(Router):
    """Send a token to the expert whose prompts have words like it: no model is run.

    The residual stream still holds the token's embedding, so that the words of an expert's prompts
    point where its tokens lie, less and less so in deeper layers. With s the sum of the embeddings
    of all tokens of the prompts, at length 1: g_e = (s_e⁺ - s_e⁻) / ‖s_e⁺ - s_e⁻‖ in all layers.
    mergekit-moe subtracts nothing unless it is told to (negatives=none).
    """

    name: ClassVar[str] = "cheap_embed"
    paper = Standard("mergekit-moe's gate_mode cheap_embed, from its documentation")

    negatives: Negatives = "others"
    """What an expert without negative prompts is not for: the others' prompts, or none."""

    @property
    def reads(self) -> Reads:
        """Rows of the embedding."""
        return "embeddings"

    def gate(self, mlp: RoutedMlp) -> MadeGate:
        """Return the direction of each expert's words."""
        return MadeGate(contrasted(mlp.texts, self.negatives, _pooled))


def _pooled(texts: Sequence[Floats]) -> Floats:
    return unit(np.sum([text.sum(axis=0, dtype=np.float64) for text in texts], axis=0))
