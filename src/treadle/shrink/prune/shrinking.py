"""Removing whole neurons and heads: what a group is worth, and how many stay."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from treadle.core import keep
from treadle.core.errors import SettingsError
from treadle.core.shapes import Float, Tensor
from treadle.model.resize.widths import Coupling
from treadle.shrink.prune.patterns import Pattern

if TYPE_CHECKING:
    from treadle.model.facts import Linear

__all__ = ["group_scores", "num_kept", "touched"]

_EXPERT_MULTIPLE = 8


def num_kept(coupling: Coupling, sparsity: float) -> int:
    """Return how many groups of `coupling` stay.

    Experts keep a multiple of 8 neurons (rounded up): grouped matrix products of 16-bit weights
    refuse other widths.

    Raises:
        SettingsError: None would.
    """
    kept = coupling.num_groups - keep.num_pruned(coupling.num_groups, sparsity)
    if kept == 0:
        raise SettingsError(
            f"sparsity {sparsity} would remove all {coupling.num_groups} groups before "
            f"'{coupling.last.tensor}'; lower it."
        )
    if coupling.last.expert is not None:
        kept = min(coupling.num_groups, -(-kept // _EXPERT_MULTIPLE) * _EXPERT_MULTIPLE)
    return kept


def group_scores(
    coupling: Coupling, scores: dict[str, Float[Tensor, "_out _in"]]
) -> Float[Tensor, "groups"]:
    """Return each group's worth: the sum of the scores of all weights that go with it."""
    total = scores[coupling.last.name].sum(dim=0).view(coupling.num_groups, -1).sum(dim=1)
    for matrix in coupling.outs:
        total = total + scores[matrix.name].sum(dim=1).view(coupling.num_groups, -1).sum(dim=1)
    return total


def touched(
    matrices: Sequence["Linear"], pattern: Pattern, shapes: dict[str, tuple[int, ...]]
) -> list[str]:
    """Return the names on disk that change with `matrices`: theirs, and biases where rows go."""
    names = list(dict.fromkeys(matrix.tensor for matrix in matrices))
    if pattern.is_structured:
        biases = [name.removesuffix("weight") + "bias" for name in names]
        names += [name for name in biases if name in shapes]
    return names
