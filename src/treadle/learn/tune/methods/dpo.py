"""DPO: prefer one answer to another, without a model of rewards."""

from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from treadle.core.method import Paper
from treadle.core.shapes import Float, Tensor
from treadle.learn.tune.base import Predictions, Tuning

if TYPE_CHECKING:
    import torch


class DPO(Tuning):
    """Raise the chosen answer over the rejected one, as far as the model before leaves room.

    The reward of an answer is beta times how much likelier it became than under the frozen
    reference, r(y) = beta (log p(y | x) - log p_ref(y | x)); the loss is -log sigmoid(r(chosen) -
    r(rejected)), equation 7 of the paper. Label smoothing e (conservative DPO) takes a share e of
    the preferences for swapped: -(1 - e) log sigmoid(m) - e log sigmoid(-m). With length
    normalisation log-probabilities are means over an answer's tokens, so that length wins nothing.
    The reference's log-probabilities are computed once, before the first step.

    Paper: Rafailov et al., "Direct preference optimization: your language model is secretly a
    reward model", 2023.
    """

    name: ClassVar[str] = "dpo"
    learning_rate: ClassVar[float] = 1e-6
    takes = "pairs"
    paper = Paper(
        "Direct preference optimization: your language model is secretly a reward model",
        2023,
        "https://arxiv.org/abs/2305.18290",
    )

    beta: Annotated[float, Field(gt=0, lt=1e6)] = 0.1
    """How closely the model is held to its reference: the larger, the closer."""
    label_smoothing: Annotated[float, Field(ge=0, lt=0.5)] = 0.0
    """Share of the preferences that are taken for swapped."""
    normalises_length: bool = False
    """Divide each answer's log-probability by its tokens."""

    def loss(self, found: Predictions) -> "torch.Tensor":
        """Return the mean loss of the pairs."""
        from torch.nn import functional

        margins = self.margins(found)
        loss = -(1 - self.label_smoothing) * functional.logsigmoid(margins)
        if self.label_smoothing:
            loss = loss - self.label_smoothing * functional.logsigmoid(-margins)
        return loss.mean()

    def margins(self, found: Predictions) -> Float[Tensor, "pairs"]:
        """Return by how much the reward of each chosen answer is above that of the rejected one."""
        from treadle.model.loss import sums_by_document, target_log_probs

        assert found.reference is not None
        log_probs = target_log_probs(found.logits, found.targets)
        raised = sums_by_document(log_probs, found.documents, found.num_documents)
        raised = raised - found.reference
        if self.normalises_length:
            raised = raised / found.documents.bincount(minlength=found.num_documents)
        return self.beta * (raised[0::2] - raised[1::2])
