"""KVzap: a small map of the state before attention."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from treadle.core.method import Paper
from treadle.core.shapes import Bool, Float, Tensor
from treadle.shrink.sparsify.base import HeadDesign, HeadTraining, Target

_LEAST = 1e-9
"""Of a probability, before its logarithm."""


class KVzap(HeadTraining):
    """Learn the logarithm of KVzip+ from the state that enters attention.

    Section 3: s_i = max over the queries of a repeated prompt, and over the query heads of a KV
    head, of a(q, i) · ‖W_O v_i‖ / ‖h_q‖; the heads learn log s_i by squared error. The linear form
    is solved at once from sums (ridge regression); the other is a network of one hidden layer. We
    differ in that a network's width is bounded by 3 % of the model's parameters, and each sample is
    seen once (15 times in the paper) unless `passes` says otherwise.

    Paper: KVzap: Fast, Adaptive, and Faithful KV Cache Pruning, Jegou and Jeblick, 2026.
    """

    name: ClassVar[str] = "kvzap"
    paper = Paper(
        "KVzap: Fast, Adaptive, and Faithful KV Cache Pruning",
        2026,
        "https://arxiv.org/abs/2601.07891",
    )
    own_design: ClassVar[HeadDesign] = HeadDesign("linear", "hidden", "ridge", has_biases=True)
    mlp_design: ClassVar[HeadDesign] = HeadDesign(
        "mlp",
        "hidden",
        "adamw",
        activation="gelu",
        has_biases=True,
        most_width=512,
        decay="cosine",
        clip_norm=1.0,
        batch_tokens=512,
    )

    target: Target = "kvzip+"
    """What the heads foretell: kvzip+ (the paper's), kvzip, or cis."""
    form: Literal["linear", "mlp"] = "linear"
    """One matrix, solved at once, or a network."""
    learning_rate: Annotated[float, Field(gt=0.0)] = 5e-3
    """Of the network, at its highest."""

    def design(self) -> HeadDesign:
        """Return what the heads are, and how they are trained."""
        return self.own_design if self.form == "linear" else self.mlp_design

    def aim(self, target: Float[Tensor, "tokens kv_heads"]) -> Float[Tensor, "tokens kv_heads"]:
        """Return the logarithm of probabilities; logits are logarithms already."""
        return target if self.target == "cis" else target.clamp(min=_LEAST).log()

    def loss(
        self,
        scores: Float[Tensor, "tokens kv_heads"],
        aim: Float[Tensor, "tokens kv_heads"],
        is_seen: Bool[Tensor, "tokens kv_heads"],
        num_layers: int,
    ) -> Float[Tensor, ""]:
        """Return the mean square of the differences, as a part of that of all layers."""
        return (scores - aim)[is_seen].square().mean() / num_layers
