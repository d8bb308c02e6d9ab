"""Locret: retaining heads on a frozen model."""

from typing import Annotated, ClassVar

from pydantic import Field

from treadle.core.method import Paper
from treadle.core.shapes import Bool, Float, Tensor
from treadle.shrink.sparsify.base import HeadDesign, HeadTraining, Target


class Locret(HeadTraining):
    """Learn the causal importance of an entry: the largest logit that an answer will give it.

    Section 3.2: s_t = W2 act(W1 [q_t; k_t; v_t]), one small network a layer. Equation 6: the loss
    is SmoothL1(s, S) averaged over heads, tokens and layers, plus 0.0025 times the sum over layers
    of (s_t - s_t+1)^2. We differ in that the width follows from the model (17 % of the inputs, and
    at most 3 % of its parameters), the samples are made of any text by rule, and there are 300.

    Paper: Locret: Enhancing Eviction in Long-Context LLM Inference with Trained Retaining Heads on
    Consumer-Grade Devices, Huang et al., 2024.
    """

    name: ClassVar[str] = "locret"
    paper = Paper(
        "Locret: Enhancing Eviction in Long-Context LLM Inference with Trained Retaining Heads on "
        "Consumer-Grade Devices",
        2024,
        "https://arxiv.org/abs/2410.01805",
    )
    own_design: ClassVar[HeadDesign] = HeadDesign(
        "mlp",
        "projections",
        "adamw",
        input_fraction=0.17,
        betas=(0.9, 0.95),
        warmup_fraction=2 / 3,
        clip_value=0.5,
    )

    target: Target = "cis"
    """What the heads foretell: cis (the paper's), kvzip, or kvzip+."""
    smoothness: Annotated[float, Field(ge=0.0)] = 0.0025
    """Weight of the part of the loss that keeps the scores of neighbours close."""

    def loss(
        self,
        scores: Float[Tensor, "tokens kv_heads"],
        aim: Float[Tensor, "tokens kv_heads"],
        is_seen: Bool[Tensor, "tokens kv_heads"],
        num_layers: int,
    ) -> Float[Tensor, ""]:
        """Return SmoothL1 / layers + smoothness · mean((s_t - s_t+1)^2)."""
        from torch.nn import functional

        near = functional.smooth_l1_loss(scores[is_seen], aim[is_seen])
        if len(scores) < 2:
            return near / num_layers
        apart = (scores[1:] - scores[:-1]).square().mean()
        return near / num_layers + self.smoothness * apart
