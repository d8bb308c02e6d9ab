"""SFT: learn the answers as they are given."""

from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from treadle.core.method import Paper
from treadle.learn.tune.base import Predictions, Tuning

if TYPE_CHECKING:
    import torch


class SFT(Tuning):
    """Make the given answers likely, token by token; prompts teach nothing.

    The loss is the mean cross-entropy over all answer tokens of a step, -1/N sum log p(y_t | x,
    y_<t), whatever documents and parts they lie in; with label smoothing e it is (1 - e) times that
    and e times the mean over the vocabulary. Text without a prompt is an answer as a whole.

    Paper: Ouyang et al., "Training language models to follow instructions with human feedback",
    2022 (its first step).
    """

    name: ClassVar[str] = "sft"
    paper = Paper(
        "Training language models to follow instructions with human feedback",
        2022,
        "https://arxiv.org/abs/2203.02155",
    )

    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of each target that is spread evenly over the vocabulary."""

    def loss(self, found: Predictions) -> "torch.Tensor":
        """Return the mean cross-entropy of the answer tokens."""
        from treadle.model.loss import in_full, target_log_probs

        if not self.label_smoothing:
            return -target_log_probs(found.logits, found.targets).mean()
        log_probs = in_full(found.logits).log_softmax(dim=-1)
        own = log_probs.gather(1, found.targets[:, None]).mean()
        spread = log_probs.mean()
        return -(1 - self.label_smoothing) * own - self.label_smoothing * spread
