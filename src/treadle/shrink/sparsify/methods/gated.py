"""Fast KVzip: gates that compare a token's query with its own key."""

from typing import Annotated, ClassVar

from pydantic import Field

from treadle.core.method import Paper
from treadle.core.shapes import Bool, Float, Tensor
from treadle.shrink.sparsify.base import HeadDesign, HeadTraining, Target

_LEAST = 1e-6
"""Of a score's distance from 0 and 1."""


class Gated(HeadTraining):
    """Learn KVzip's scores with a gate of 16 numbers a head, by binary cross-entropy.

    Section 3.2: q and k are small normed projections of the state before attention, z = q.k / 4 +
    b, and the score is the mean over a KV head's query heads of 1 / (1 + sum over s of
    exp(q.sink_s - z)). The loss is summed over layers; SGD with momentum 0.9. We differ in that
    300 samples are learned instead of 5000, and that a target that is no probability (CIS) is
    replaced by the ranks of its values in the sample, 0 to 1.

    Paper: Fast KVzip: Efficient and Accurate LLM Inference with Gated KV Eviction, Kim et al.,
    2026.
    """

    name: ClassVar[str] = "gated"
    paper = Paper(
        "Fast KVzip: Efficient and Accurate LLM Inference with Gated KV Eviction",
        2026,
        "https://arxiv.org/abs/2601.17668",
    )
    own_design: ClassVar[HeadDesign] = HeadDesign(
        "gate", "hidden", "sgd", momentum=0.9, decay="cosine"
    )

    target: Target = "kvzip"
    """What the gates foretell: kvzip (the paper's), or the ranks of kvzip+ or cis."""
    learning_rate: Annotated[float, Field(gt=0.0)] = 0.2
    """The highest of the schedule."""

    def aim(self, target: Float[Tensor, "tokens kv_heads"]) -> Float[Tensor, "tokens kv_heads"]:
        """Return probabilities as they are, and the ranks of all else, 0..1 in each head."""
        if self.target == "kvzip":
            return target.clamp(0.0, 1.0)
        ranks = target.argsort(dim=0, stable=True).argsort(dim=0, stable=True)
        return ranks.float() / max(1, len(target) - 1)

    def loss(
        self,
        scores: Float[Tensor, "tokens kv_heads"],
        aim: Float[Tensor, "tokens kv_heads"],
        is_seen: Bool[Tensor, "tokens kv_heads"],
        num_layers: int,
    ) -> Float[Tensor, ""]:
        """Return the binary cross-entropy of this layer: those of all layers add up."""
        from torch.nn import functional

        found = scores.clamp(_LEAST, 1 - _LEAST)
        return functional.binary_cross_entropy(found[is_seen], aim[is_seen])
