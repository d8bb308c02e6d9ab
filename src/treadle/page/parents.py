"""Models made from several others: which they are, and which of them it beats."""

import math
from typing import NamedTuple

from treadle.core.intervals import bootstrap_mean
from treadle.core.result import Result
from treadle.page.numbers import spoken
from treadle.page.pairs import is_clearly_better
from treadle.page.scores import ProtocolTable, Row, is_sound
from treadle.page.sources import parents_of
from treadle.page.wording import last_part, listed, shortened

__all__ = ["Ancestor", "Beaten", "beaten", "is_surely_better", "listed_parents", "parents_in"]


class Ancestor(NamedTuple):
    """One of several models that another was made from."""

    name: str
    row: Row | None
    """Where it stands in the same table; None where it was not measured so."""


def parents_in(table: ProtocolTable, row: Row) -> list[Ancestor]:
    """Return the models that the row's was made from; none where it was made from one alone."""
    if not row.makers:
        return []
    return [
        Ancestor(last_part(entry.path), _row_of(table, row, entry.content_hash))
        for entry in parents_of(row.makers[-1].result)
    ]


def _row_of(table: ProtocolTable, row: Row, content_hash: str) -> Row | None:
    """Return the row of a model, as near as can be to how `row` was asked."""
    found = [one for one in table.rows if one.model_hash == content_hash]
    alike = [one for one in found if one.parts[-1] == row.parts[-1]]
    return next(iter(alike or found), None)


def listed_parents(parents: list[Ancestor]) -> str:
    """Return the names of parents with their scores, in the order of the names."""
    return listed(
        shortened(one.name)
        if one.row is None
        else f"{shortened(one.name)} ({spoken(one.row.score.value)})"
        for one in sorted(parents, key=lambda one: one.name)
    )


class Beaten(NamedTuple):
    """A parent that is worse than what was made of it."""

    parent: Ancestor
    is_clear: bool
    """Whether the 95 % interval of the difference excludes none."""


def beaten(row: Row, parents: list[Ancestor]) -> list[Beaten]:
    """Return the parents whose scores are worse than the row's."""
    found = []
    for parent in parents:
        if parent.row is not None and _is_better(row, parent.row):
            found.append(Beaten(parent, is_surely_better(row, parent.row)))
    return found


def _is_better(row: Row, other: Row) -> bool:
    if not is_sound(row.score) or not is_sound(other.score):
        return False
    sign = -1.0 if row.score.better == "higher" else 1.0
    return sign * row.score.value < sign * other.score.value


def is_surely_better(row: Row, other: Row) -> bool:
    """Whether the difference is sure: by their examples, pair by pair, or else by intervals."""
    ours, theirs = row.evaluation.result, other.evaluation.result
    for name, sign in _directed(ours).items():
        left, right = ours.samples[name], theirs.samples.get(name, [])
        pairs = [sign * (a - b) for a, b in zip(left, right, strict=False)]
        if len(left) == len(right) > 1 and all(map(math.isfinite, pairs)):
            return bootstrap_mean(pairs, 0).high < 0.0
    return is_clearly_better(row, other)


def _directed(result: Result) -> dict[str, float]:
    """Return the samples by name that say which way is better, as the sign that makes it down."""
    better = {entry.name: entry.better for entry in result.measurements}
    signs = {"lower": 1.0, "higher": -1.0}
    return {
        name: signs[better[name]] for name in result.samples if better.get(name, "neither") in signs
    }
