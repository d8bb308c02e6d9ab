"""What attention moves while a recorded tree is decoded, counted from the record alone."""

import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from treadle.core.errors import DataError
from treadle.runtime.decode.recorded import RecordedNode, RecordedTree, recording_of
from treadle.runtime.sharing.account import AttentionShape, CountedNode, Traffic, traffic

__all__ = [
    "EvenSteps",
    "counted",
    "read_trees",
    "stretches_of",
    "stretches_of_drafts",
    "whole_trees",
]

_NOTHING = Traffic(0, 0, 0, 0, 0, 0)


class EvenSteps(NamedTuple):
    """Steps in which the same branches grow: their nodes at the first step, and at the last."""

    num_steps: int
    first: list[CountedNode]
    last: list[CountedNode]
    num_queries: int


def read_trees(path: Path) -> list[dict[str, Any]]:  # Any: JSON values
    """Return what a file holds: recorded trees, or one record of trees of drafts.

    Raises:
        DataError: It is no such file.
    """
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise DataError(f"Cannot read {path} ({error}); give a JSON file of trees.") from error
    several = found if isinstance(found, list) else [found]
    if not several or not all(isinstance(one, dict) for one in several):
        raise DataError(f"{path} holds no trees; give a JSON file of a recorded tree, or a list.")
    return several


def whole_trees(several: Sequence[dict[str, Any]]) -> list[RecordedTree]:  # Any: JSON values
    """Return the trees that were recorded to their end."""
    return [recording_of(one) for one in several if one.get("data") or one.get("nodes")]


def stretches_of(nodes: Sequence[RecordedNode], num_prompt: int) -> list[EvenSteps]:
    """Return the steps of a recorded tree, whose branches go on as soon as they are forked."""
    begins: list[int] = []
    for node in nodes:
        parent = node.parent
        begins.append(1 if parent is None else begins[parent] + nodes[parent].num_tokens)
    ends = [begin + node.num_tokens - 1 for begin, node in zip(begins, nodes, strict=True)]
    cuts = sorted({1, *begins, *(end + 1 for end in ends)})
    found = []
    for first, after in itertools.pairwise(cuts):
        growing = [n for n in range(len(nodes)) if begins[n] <= first <= ends[n]]
        if growing:
            at = [
                _nodes_at(nodes, begins, growing, num_prompt, step) for step in (first, after - 1)
            ]
            found.append(EvenSteps(after - first, at[0], at[1], len(growing)))
    return found


def _nodes_at(
    nodes: Sequence[RecordedNode],
    begins: Sequence[int],
    growing: Sequence[int],
    num_prompt: int,
    step: int,
) -> list[CountedNode]:
    """Return the nodes that a step meets, in the order of a walk."""
    queries: dict[int, int] = {}
    for leaf in growing:
        above: int | None = leaf
        while above is not None:
            queries[above] = queries.get(above, 0) + 1
            above = nodes[above].parent
    below: dict[int | None, list[int]] = {}
    for number in sorted(queries, reverse=True):
        below.setdefault(nodes[number].parent, []).append(number)
    found = [CountedNode(num_prompt, len(growing))]
    waiting = [(number, 0) for number in below.get(None, [])]
    own = set(growing)
    while waiting:
        number, parent = waiting.pop()
        size = step - begins[number] + 1 if number in own else nodes[number].num_tokens
        waiting += [(child, len(found)) for child in below.get(number, [])]
        found.append(CountedNode(size, queries[number], parent))
    return found


def stretches_of_drafts(
    paths: Sequence[Sequence[int]], lengths: Sequence[int], num_prompt: int
) -> list[EvenSteps]:
    """Return the steps of decoding with a tree of drafts, each of them a token behind the text.

    Args:
        paths: Of each node, its parent's path and its own rank.
        lengths: Tokens that were accepted in each step.
        num_prompt: Tokens of the prompt.
    """
    places = {(): 0, **{tuple(path): n for n, path in enumerate(paths, 1)}}
    parents = [-1, *(places[tuple(path[:-1])] for path in paths)]
    queries = [1] * len(parents)
    for number in range(len(parents) - 1, 0, -1):
        queries[parents[number]] += queries[number]
    found, text = [], num_prompt
    for accepted in lengths:
        nodes = [CountedNode(text, queries[0])]
        nodes += [CountedNode(1, own, p + 1) for own, p in zip(queries, parents, strict=True)]
        found.append(EvenSteps(1, nodes, nodes, queries[0]))
        text += accepted
    return found


def counted(
    stretches: Sequence[EvenSteps], mode: str, shape: AttentionShape, is_paper: bool = False
) -> Traffic:
    """Return what a mode moves in all steps; within a stretch it grows evenly, or nearly so."""
    total = _NOTHING
    for one in stretches:
        first = traffic(mode, one.first, one.num_queries, shape, is_paper)
        last = traffic(mode, one.last, one.num_queries, shape, is_paper)
        sums = [(a + b) * one.num_steps // 2 for a, b in zip(first, last, strict=True)]
        total = total.plus(Traffic(*sums)._replace(peak=max(first.peak, last.peak)))
    return total
