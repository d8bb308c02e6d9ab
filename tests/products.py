"""Parameters of tests: what the fast tests try of a product, and what only all tests do."""

from collections.abc import Callable, Iterable
from itertools import combinations, product
from typing import Any

import pytest

__all__ = ["ALIKE", "each_kind", "fast_where", "few", "pairwise"]

ALIKE = frozenset({"cohere2", "gemma", "granite", "smollm3", "starcoder2"})
"""Architectures whose facts are those of another one."""


def few(values: Iterable[Any], *kept: Any) -> list[Any]:  # Any: parameters
    """Return all values, of which only `kept` are fast: for a property of what all of them share.

    A driver resumes, shards and counts the same way whatever method it drives: one or two methods
    show it, and `make test-all` tries the others.
    """
    found = list(values)
    missing = [value for value in kept if value not in found]
    assert not missing, f"{missing} are not among {found}"
    return [
        value if value in kept else pytest.param(value, marks=pytest.mark.slow) for value in found
    ]


def fast_where(
    is_fast: Callable[..., bool],
    *axes: Iterable[Any],  # Any: values of axes
) -> list[Any]:
    """Return the whole product of some axes, of which only that is fast what `is_fast` says."""
    return [
        values if is_fast(*values) else pytest.param(*values, marks=pytest.mark.slow)
        for values in product(*axes)
    ]


def each_kind(model_types: Iterable[str]) -> list[Any]:
    """Return all architectures, of which those are fast whose facts are like no other's."""
    found = list(model_types)
    return few(found, *(one for one in found if one not in ALIKE))


def pairwise(*axes: Iterable[Any]) -> list[Any]:  # Any: values of axes
    """Return the whole product of some axes, of which only a part that crosses all pairs is fast.

    Which part is the same in every run: the next one taken is the first that has most new pairs.
    """

    def pairs(values: tuple[Any, ...]) -> set[tuple[tuple[int, Any], ...]]:
        return set(combinations(enumerate(values), 2))

    whole = list(product(*axes))
    missing = set().union(*map(pairs, whole))
    kept = []
    while missing:
        best = max(whole, key=lambda values: len(pairs(values) & missing))
        kept.append(best)
        missing -= pairs(best)
    return [
        values if values in kept else pytest.param(*values, marks=pytest.mark.slow)
        for values in whole
    ]
