"""What a model makes of rows that it does not learn: losses, margins, and how far it has moved."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from treadle.core.intervals import bootstrap_mean, wilson
from treadle.core.result import Comparison, Measurement
from treadle.learn.tune.asking import Beside, of_parts, predictions
from treadle.learn.tune.base import Tuning
from treadle.learn.tune.lessons import Group
from treadle.learn.tune.teachers import LiveTeacher, Part

if TYPE_CHECKING:
    import torch

    from treadle.model.packed import PackedModel

__all__ = ["Held", "HeldOut", "compared", "divergences"]

Values = npt.NDArray[np.float64]
_BITS = 1 / float(np.log(2))


class Held(NamedTuple):
    """Of each group that is held out."""

    nats: Values
    """Of its answer's tokens together; of a pair, those of the chosen one."""
    rejected_nats: Values
    """Of pairs; empty otherwise."""
    margins: Values
    """Of pairs: how much more the chosen answer's reward rose; empty otherwise."""


class HeldOut:
    """Rows that are held out.

    Args:
        groups: All groups.
        numbers: Those that are held out.
        method: By which the model is tuned.
        part_tokens: Tokens at once.
    """

    def __init__(
        self, groups: Sequence[Group], numbers: Sequence[int], method: Tuning, part_tokens: int
    ) -> None:
        self._groups, self.numbers, self._part_tokens = groups, list(numbers), part_tokens
        self._method, self.has_pairs = method, method.takes == "pairs"
        answers = [groups[number][0] for number in numbers]
        self.num_tokens = np.array([one.num_answers for one in answers], dtype=np.float64)
        self.num_bytes = np.array([one.answer_bytes for one in answers], dtype=np.float64)

    def measure(self, asked: "PackedModel", beside: Beside) -> Held:
        """Ask a model, in float32."""
        import torch

        from treadle.model.loss import sums_by_document, target_log_probs

        def sums(part: Part) -> "torch.Tensor":
            found = predictions(asked, part, Beside())
            log_probs = target_log_probs(found.logits, found.targets)
            return -sums_by_document(log_probs, found.documents, found.num_documents)

        with asked.active(), asked.exactly():
            parts = of_parts(sums, self._groups, self.numbers, self._part_tokens, "evaluate")
        width = 2 if self.has_pairs else 1
        table = torch.zeros(len(self._groups), width)
        for part, values in parts:
            table[part["groups"][0]] = values.reshape(-1, width)
        nats = table[self.numbers].double().numpy()
        if not self.has_pairs:
            return Held(nats[:, 0], np.empty(0), np.empty(0))
        assert beside.reference is not None
        raised = -nats - beside.reference[self.numbers].double().numpy()
        if getattr(self._method, "normalises_length", False):
            counts = [[one.num_answers for one in self._groups[n]] for n in self.numbers]
            raised = raised / np.array(counts)
        beta = float(getattr(self._method, "beta", 1.0))
        return Held(nats[:, 0], nats[:, 1], beta * (raised[:, 0] - raised[:, 1]))

    def values(self, held: Held) -> dict[str, float]:
        """Return one number a measure, for a curve."""
        found = {"held-out loss": float(held.nats.sum() / self.num_tokens.sum())}
        if self.has_pairs:
            found |= {
                "held-out margin": float(held.margins.mean()),
                "held-out accuracy": float((held.margins > 0).mean()),
            }
        return found

    def measurements(self, before: Held, after: Held, seed: int) -> list[Measurement]:
        """Return what changed, with intervals over rows."""
        what = "chosen answers" if self.has_pairs else "answers"
        found = [
            *self._ratio("loss", "nats per token", self.num_tokens, before, after, seed, what),
            *self._ratio("bits_per_byte", "", self.num_bytes, before, after, seed, what),
        ]
        if self.has_pairs:
            found += [
                _mean("heldout_margin", after.margins, seed, "higher", "of rewards; 0 before"),
                self._accuracy(after),
            ]
        return found

    def _accuracy(self, held: Held) -> Measurement:
        right = (held.margins > 0).astype(np.float64).tolist()
        low, high = wilson(right)
        return Measurement(
            name="heldout_accuracy",
            value=float(np.mean(right)),
            low=low,
            high=high,
            better="higher",
            note=f"of {len(right)} pairs whose chosen answer has the higher reward",
        )

    def _ratio(
        self,
        name: str,
        unit: str,
        sizes: Values,
        before: Held,
        after: Held,
        seed: int,
        what: str,
    ) -> list[Measurement]:
        """Return a sum over rows by the sum of their sizes: before, after, and the difference."""
        scale = (_BITS if name == "bits_per_byte" else 1.0) / sizes.mean()
        note = f"of {len(sizes)} held-out {what}"
        names = [f"heldout_{name}_before", f"heldout_{name}"]
        both = [held.nats * scale for held in (before, after)]
        found = [
            _mean(called, values, seed, "lower", note, unit)
            for called, values in zip(names, both, strict=True)
        ]
        apart = _mean(f"{names[1]}_difference", both[1] - both[0], seed, "lower", note, unit)
        of = Comparison(score=names[1], baseline="before", neutral=0.0)
        return [*found, apart.model_copy(update={"comparison": of})]


def divergences(
    tuned: "PackedModel",
    reference: "PackedModel",
    groups: Sequence[Group],
    numbers: Sequence[int],
    part_tokens: int,
) -> Values:
    """Return KL(tuned | reference) of each group, its mean over answer tokens, in nats."""
    teacher = LiveTeacher(reference)

    def kl(part: Part) -> "torch.Tensor":
        import torch

        own = predictions(tuned, part, Beside()).logits.float().log_softmax(dim=-1)
        other = teacher.says(part).logits
        assert other is not None
        values = (own.exp() * (own - other.float().log_softmax(dim=-1))).sum(dim=1)
        size = len(groups[numbers[0]])
        owners = part["documents"][0] // size
        sums: torch.Tensor = torch.zeros(part["groups"].shape[1]).index_add(0, owners, values)
        mean: torch.Tensor = sums / owners.bincount(minlength=len(sums))
        return mean

    table = np.zeros(len(groups))
    with tuned.active(), tuned.exactly(), reference.exactly():
        for part, values in of_parts(kl, groups, numbers, part_tokens, "compare"):
            table[part["groups"][0].numpy()] = values.double().numpy()
    return table[list(numbers)]


def compared(values: Values, seed: int) -> Measurement:
    """Return how far a model is from its reference."""
    note = f"KL(tuned | reference) at the answer tokens of {len(values)} held-out rows"
    return _mean("kl_to_reference", values, seed, "lower", note, "nats per token")


def _mean(
    name: str, values: Values, seed: int, better: str, note: str, unit: str = ""
) -> Measurement:
    low, high = bootstrap_mean(values.tolist(), seed)
    return Measurement.model_validate(
        {
            "name": name,
            "value": float(values.mean()),
            "low": low,
            "high": high,
            "unit": unit,
            "better": better,
            "note": note,
        }
    )
