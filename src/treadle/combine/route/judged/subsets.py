"""Sets of test questions that are told apart."""

from typing import NamedTuple

from treadle.combine.route.judged.tally import Routed

__all__ = ["Subset", "subsets_of"]


class Subset(NamedTuple):
    """Some of the test questions."""

    key: str
    """Ends the names of its measurements; empty for all."""
    title: str
    routed: Routed


def subsets_of(
    routed: Routed, seen: frozenset[int], tasks: tuple[str, ...]
) -> tuple[list[Subset], list[int]]:
    """Return the sets, all questions first, and the places of those that are training questions.

    Args:
        routed: All questions.
        seen: Hashes of the training questions.
        tasks: Those that were trained on.
    """
    keys = routed.table.keys
    leaked = [place for place, key in enumerate(keys) if key in seen]
    found = [Subset("", "all questions", routed)]
    fresh = [place for place, key in enumerate(keys) if key not in seen]
    if leaked and fresh:
        found.append(Subset("_unseen", "without training questions", routed.rows(fresh)))
    told = routed.table.tasks
    if told is None or not tasks:
        return found, leaked
    known = [place for place, task in enumerate(told) if task in tasks]
    other = [place for place, task in enumerate(told) if task not in tasks]
    if known and other:
        found.append(Subset("_trained_tasks", "tasks that were trained on", routed.rows(known)))
        found.append(Subset("_other_tasks", "tasks that were not", routed.rows(other)))
    return found, leaked
