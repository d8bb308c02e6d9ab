"""A model that is asked about parts, and what training lowers there."""

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from treadle.core.errors import DataError
from treadle.core.progress import track
from treadle.learn.tune.base import Predictions, Tuning
from treadle.learn.tune.lessons import Group, collate, parts_of
from treadle.learn.tune.teachers import Part, Teacher

if TYPE_CHECKING:
    import torch

    from treadle.model.fit import Objective
    from treadle.model.packed import PackedModel

__all__ = ["Beside", "objective_of", "predictions", "reference_of"]

_NAMED = 8


class Beside(NamedTuple):
    """What stands beside a model while it learns."""

    reference: "torch.Tensor | None" = None
    """[groups, 2] log-probabilities of pairs' answers before tuning."""
    teacher: Teacher | None = None


def predictions(asked: "PackedModel", part: Part, beside: Beside) -> Predictions:
    """Return what a model says of the answers of a part."""
    logits = asked.logits(part["input_ids"][0], part["lengths"][0].tolist(), part["wanted"][0])
    reference = beside.reference
    return Predictions(
        logits,
        part["targets"][0],
        part["documents"][0],
        part["lengths"].shape[1],
        None if reference is None else reference[part["groups"][0]].flatten(),
        None if beside.teacher is None else beside.teacher.says(part),
    )


def objective_of(
    method: Tuning, asked: "PackedModel", groups: Sequence[Group], beside: Beside
) -> "Objective":
    """Return a method's loss of a part, weighed by its answer tokens, or its pairs.

    Where it is not finite, the rows of the part are named.
    """
    from treadle.model.fit import Objective

    def loss(_: object, part: Part) -> "torch.Tensor":
        found = method.loss(predictions(asked, part, beside))
        if not math.isfinite(float(found.detach())):
            places = [groups[number][0].where for number in part["groups"][0].tolist()]
            more = f" and {len(places) - _NAMED} more" if len(places) > _NAMED else ""
            raise DataError(
                f"the loss is {float(found.detach())}, of {', '.join(places[:_NAMED])}{more}; "
                f"lower --learning-rate, or look for damaged rows"
            )
        return found

    unit = "groups" if method.takes == "pairs" else "targets"
    return Objective(loss, lambda part: float(part[unit].numel()))


def reference_of(
    asked: "PackedModel", groups: Sequence[Group], numbers: Sequence[int], part_tokens: int
) -> "torch.Tensor":
    """Return the log-probability of each answer of some pairs: [all groups, 2], others zero."""
    import torch

    from treadle.model.loss import sums_by_document, target_log_probs

    def sums(part: Part) -> "torch.Tensor":
        found = predictions(asked, part, Beside())
        log_probs = target_log_probs(found.logits, found.targets)
        return sums_by_document(log_probs, found.documents, found.num_documents)

    table = torch.zeros(len(groups), 2)
    for part, values in of_parts(sums, groups, numbers, part_tokens, "reference"):
        table[part["groups"][0]] = values.reshape(-1, 2)
    return table


def of_parts(
    compute: "Callable[[Part], torch.Tensor]",
    groups: Sequence[Group],
    numbers: Sequence[int],
    part_tokens: int,
    title: str,
) -> "list[tuple[Part, torch.Tensor]]":
    """Compute something of some groups, part by part, without gradients."""
    import torch

    parts = parts_of(groups, numbers, part_tokens)
    with torch.no_grad():
        return [
            (part, compute(part))
            for part in (collate(groups, some) for some in track(parts, title, len(parts)))
        ]
