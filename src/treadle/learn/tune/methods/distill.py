"""Distillation: learn what another model finds likely."""

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from treadle.core.method import Paper
from treadle.core.shapes import Float, Tensor
from treadle.learn.tune.base import Predictions, TeacherSays, Tuning

if TYPE_CHECKING:
    import torch


class Distill(Tuning):
    """Bring the model's distribution of the next token near a teacher's.

    With the teacher's p and the model's q at temperature T: forward is KL(p | q), which covers all
    that the teacher finds likely; reverse is KL(q | p), which keeps to what it finds likeliest;
    jsd is the generalised Jensen-Shannon divergence of the paper's section 3, beta KL(p | m) +
    (1 - beta) KL(q | m) with m = beta p + (1 - beta) q. The loss is T^2 times it, and
    `cross_entropy` times the loss of the tokens themselves. Kept teachers say their likeliest
    tokens, and how much is left: then all divergences are over these and one more outcome, which is
    at most what the whole vocabulary gives.

    Paper: Agarwal et al., "On-policy distillation of language models: learning from self-generated
    mistakes", 2024; Hinton et al., 2015, for the temperature.
    """

    name: ClassVar[str] = "distill"
    has_teacher = True
    required_parameters: ClassVar[frozenset[str]] = frozenset({"teacher"})
    paper = Paper(
        "On-policy distillation of language models: learning from self-generated mistakes",
        2024,
        "https://arxiv.org/abs/2306.13649",
    )

    divergence: Literal["forward", "reverse", "jsd"] = "forward"
    """What is lowered: KL(teacher | model), KL(model | teacher), or what lies between."""
    beta: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """Of jsd: the teacher's share of the mixture; small is like forward, large like reverse."""
    temperature: Annotated[float, Field(gt=0, lt=1e6)] = 1.0
    """Both models' logits are divided by it."""
    cross_entropy: Annotated[float, Field(ge=0, lt=1e6)] = 0.0
    """Weight of the loss of the tokens themselves, beside the divergence."""
    top: Annotated[int, Field(gt=0)] | None = None
    """Keep so many of the teacher's likeliest tokens on disk, before the first step; the teacher
    then is in memory no longer (default: it is asked as training goes)."""

    def loss(self, found: Predictions) -> "torch.Tensor":
        """Return the mean divergence of the places, and their cross-entropy with its weight."""
        from treadle.model.loss import target_log_probs

        assert found.teacher is not None
        own, other = self._log_probs(found.logits, found.teacher)
        loss = self.temperature**2 * self._divergence(own, other).mean()
        if self.cross_entropy:
            plain = -target_log_probs(found.logits, found.targets).mean()
            loss = loss + self.cross_entropy * plain
        return loss

    def _log_probs(
        self, logits: "torch.Tensor", teacher: TeacherSays
    ) -> "tuple[torch.Tensor, torch.Tensor]":
        """Return both models' log-probabilities of the same outcomes."""
        import torch

        from treadle.model.loss import in_full

        if teacher.logits is not None:
            num = min(logits.shape[-1], teacher.logits.shape[-1])  # padded rows of one of them
            both = (in_full(logits), in_full(teacher.logits))
            scaled = [some[:, :num] / self.temperature for some in both]
            return scaled[0].log_softmax(dim=-1), scaled[1].log_softmax(dim=-1)
        assert teacher.ids is not None
        assert teacher.log_probs is not None
        own = (in_full(logits) / self.temperature).log_softmax(dim=-1).gather(1, teacher.ids)
        return (
            torch.cat([own, _rest(own)], dim=1),
            torch.cat([teacher.log_probs, _rest(teacher.log_probs)], dim=1),
        )

    def _divergence(
        self, own: Float[Tensor, "places outcomes"], other: Float[Tensor, "places outcomes"]
    ) -> Float[Tensor, "places"]:
        import math

        import torch

        if self.divergence == "forward":
            return _divergence(other, own)
        if self.divergence == "reverse":
            return _divergence(own, other)
        mixed = torch.logaddexp(other + math.log(self.beta), own + math.log(1 - self.beta))
        return self.beta * _divergence(other, mixed) + (1 - self.beta) * _divergence(own, mixed)


def _divergence(
    p: Float[Tensor, "places outcomes"], q: Float[Tensor, "places outcomes"]
) -> Float[Tensor, "places"]:
    """Return KL(p | q) of log-probabilities, in nats."""
    return (p.exp() * (p - q)).sum(dim=1)


def _rest(log_probs: "torch.Tensor") -> "torch.Tensor":
    """Return the log-probability of all other outcomes, at least a hundred-millionth."""
    import torch

    left = 1 - log_probs.double().exp().sum(dim=1, keepdim=True)
    return torch.log(left.clamp_min(1e-8)).to(log_probs.dtype)
