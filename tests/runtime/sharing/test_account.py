"""What attention moves, counted again in loops."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.sharing.grown import grown, step_of
from treadle.runtime.sharing.account import (
    AttentionShape,
    CountedNode,
    Traffic,
    slots_read,
    traffic,
)
from treadle.runtime.sharing.plan import CHUNK, Tiling, plan_runs
from treadle.runtime.sharing.trees import runs_of

SHAPE = AttentionShape((6, 3), (2, 1), 8, 2 * 8 * 4)
"""Two layers, three query heads of a KV head: 16 rows meet slots together."""


@st.composite
def trees(draw) -> list[CountedNode]:
    """Nodes in the order of a walk; every leaf has one query."""
    count = draw(st.integers(1, 12))
    parents = [-1, *(draw(st.integers(0, n - 1)) for n in range(1, count))]
    children = [[n for n in range(count) if parents[n] == p] for p in range(count)]
    order, waiting = [], [0]
    while waiting:
        order.append(waiting.pop())
        waiting += children[order[-1]]
    queries = [0] * count
    for number in reversed(range(count)):
        queries[number] = sum(queries[c] for c in children[number]) or 1
    places = {number: place for place, number in enumerate(order)}
    return [
        CountedNode(draw(st.integers(1, 700)), queries[n], places.get(parents[n], -1))
        for n in order
    ]


def read_by_loop(nodes: list[CountedNode]) -> int:
    """Follow each query up to the root."""
    leaves = [n for n in range(len(nodes)) if all(o.parent != n for o in nodes)]
    total = 0
    for leaf in leaves:
        while leaf >= 0:
            total += nodes[leaf].num_slots
            leaf = nodes[leaf].parent
    return total


@given(trees())
def test_bytes_are_those_of_the_definitions(nodes):
    queries = nodes[0].num_queries
    by_mode = {
        mode: traffic(mode, nodes, queries, SHAPE)
        for mode in ("path", "flatten", "cascade", "node", "node_chunk", "dense")
    }
    each = 3 * 2 * 8 * 4  # KV heads of both layers
    whole = sum(node.num_slots for node in nodes)
    assert by_mode["path"].keys_values == each * read_by_loop(nodes)
    assert queries <= 16
    for mode in ("flatten", "node", "node_chunk", "dense"):
        assert by_mode[mode].keys_values == each * whole
    shared = sum(n.num_slots for n in nodes if n.num_queries == queries)
    own = sum(n.num_slots * n.num_queries for n in nodes if n.num_queries < queries)
    assert by_mode["cascade"].keys_values == each * (shared + own)
    partial = 2 * 9 * (8 + 2) * 4  # written and read, nine query heads
    chunks = sum(-(-n.num_slots // CHUNK) * n.num_queries for n in nodes)
    assert by_mode["node_chunk"].partials == partial * chunks
    assert by_mode["node"].partials == partial * sum(n.num_queries for n in nodes)
    numbers = queries * whole * 9
    assert (by_mode["dense"].scores, by_mode["dense"].masks) == (32 * numbers, 4 * numbers)
    assert not any(by_mode[m].scores + by_mode[m].masks for m in ("path", "flatten", "node"))
    assert len({one.queries for one in by_mode.values()}) == 1


@given(trees())
def test_the_papers_count_is_that_of_its_repository(nodes):
    queries = nodes[0].num_queries
    path = traffic("path", nodes, queries, SHAPE, is_paper=True)
    assert path.keys_values == read_by_loop(nodes) * 9 * 8 * 4
    dense = traffic("dense", nodes, queries, SHAPE, is_paper=True)
    whole = sum(node.num_slots for node in nodes)
    assert dense.scores == 20 * queries * whole * 9
    # Each slot of the flattened tree stands in one block; a block's queries are a set.
    owner = [n for n, node in enumerate(nodes) for _ in range(node.num_slots)]
    below = [set() for _ in nodes]
    for leaf in range(len(nodes)):
        if all(o.parent != leaf for o in nodes):
            at = leaf
            while at >= 0:
                below[at].add(leaf)
                at = nodes[at].parent
    met = 0
    for begin in range(0, whole, 128):
        met += len(set().union(*(below[n] for n in owner[begin : begin + 128])))
    flatten = traffic("flatten", nodes, queries, SHAPE, is_paper=True)
    assert flatten.partials == 2 * 4 * 9 * (8 + 1) * met
    assert flatten.masks == 2 * 8 * whole


def test_more_queries_than_a_tile_read_a_node_again():
    one = traffic("flatten", [CountedNode(100, 16)], 16, SHAPE)
    two = traffic("flatten", [CountedNode(100, 17)], 17, SHAPE)
    assert two.keys_values == 2 * one.keys_values
    sums = one.plus(two)
    assert sums.keys_values == 3 * one.keys_values
    assert sums.peak == max(one.peak, two.peak)
    assert Traffic(1, 2, 3, 4, 5, 99).total == 15


@pytest.mark.parametrize("mode", ["flatten", "cascade", "node", "path"])
def test_a_step_reads_what_its_plan_says(mode):
    """Against the set of slots that each tile of rows sees."""
    rng = np.random.default_rng(3)
    size, most_rows = 16, 16
    rows = step_of(grown(rng, size, 20, 25), size, rng, 50)
    runs = runs_of(rows, most_rows)
    plan = None if mode == "path" else plan_runs(rows, runs, Tiling(size, most_rows), mode)
    found = slots_read(rows, plan, most_rows)
    contexts = rows.context_lengths
    assert found.by_path == contexts.sum()
    if mode == "path":
        assert found.read == found.by_path
        return
    expected = 0
    if mode == "node":  # every slot once for each 16 rows that see it
        seen = Counter(
            (int(rows.pages[rows.page_starts[segment] + j // size]), j % size)
            for segment in range(len(contexts))
            for j in range(contexts[segment])
        )
        assert found.read == sum(-(-count // most_rows) for count in seen.values())
        return
    for tile in plan.tiles:
        own = plan.segments[plan.members[tile.first : tile.first + tile.num_rows]]
        slots = []
        for segment in own:
            first = rows.page_starts[segment]
            slots += [
                (int(rows.pages[first + j // size]), j % size) for j in range(contexts[segment])
            ]
        expected += len(set(slots))
    assert found.read == expected if mode == "flatten" else expected <= found.read
    assert found.read < found.by_path
