"""hidden: what enters an MLP where an expert is at home, against what enters it elsewhere."""

from collections.abc import Sequence
from typing import ClassVar, Literal

import numpy as np

from treadle.combine.merge.mixture.base import MadeGate, Reads, RoutedMlp, Router
from treadle.combine.merge.mixture.contrast import Negatives, contrasted
from treadle.combine.merge.site import Floats
from treadle.core.method import Paper

__all__ = ["HiddenState"]


class HiddenState(Router):
    """Send a token to the expert whose prompts look like it from inside.

    Prompts say what an expert is for; what they look like before an MLP is the direction in which
    its tokens lie. g_e = (h̄_e⁺ - h̄_e⁻) / ‖h̄_e⁺ - h̄_e⁻‖, with h̄ the mean over prompts of their last
    token. mergekit-moe takes the residual stream before the layer, and subtracts nothing unless it
    is told to (state=residual, negatives=none); here h is what the gate will read, the input of the
    MLP behind its norm, and the other experts' prompts are what an expert is not for.

    Paper: Zhao et al., 2024 (its training-free router).
    """

    name: ClassVar[str] = "hidden"
    paper = Paper(
        "Model-GLUE: Democratized LLM Scaling for A Large Model Zoo in the Wild",
        2024,
        "https://arxiv.org/abs/2410.05357",
    )

    state: Literal["mlp", "residual"] = "mlp"
    """Where prompts are looked at: what enters the MLP, or the residual stream before the layer."""
    position: Literal["last", "mean"] = "last"
    """Which tokens of a prompt count: the last one, before which all others lie, or all alike."""
    negatives: Negatives = "others"
    """What an expert without negative prompts is not for: the others' prompts, or none."""

    @property
    def reads(self) -> Reads:
        """What enters the MLP, or the residual stream before the layer."""
        return self.state

    def gate(self, mlp: RoutedMlp) -> MadeGate:
        """Return the direction of each expert's prompts."""
        return MadeGate(contrasted(mlp.texts, self.negatives, self._pooled))

    def _pooled(self, texts: Sequence[Floats]) -> Floats:
        """Return the mean over texts of each one's last token, or of the mean over its tokens."""
        is_last = self.position == "last"
        each = [text[-1] if is_last else text.mean(axis=0, dtype=np.float64) for text in texts]
        found: Floats = np.stack(each).mean(axis=0, dtype=np.float64).astype(np.float32)
        return found
