from itertools import permutations

import pytest

from treadle.model import tiny
from treadle.model.graph.capture import capture_model
from treadle.model.graph.order import least_peak, peak_bytes
from treadle.model.graph.schema import Graph, GraphValue, Operator

from . import plans


def value(num_bytes, name, is_output=False):
    return GraphValue(num_bytes, "float32", (num_bytes // 4,), "temporary", name, is_output)


BRANCHES = Graph(
    "branches",
    (
        Operator("big", "op", "forward", (), (0,), (), 0, 1, ()),
        Operator("other", "op", "forward", (), (1,), (), 0, 1, ()),
        Operator("small", "op", "forward", (0,), (2,), (), 0, 1, ()),
        Operator("other_small", "op", "forward", (1,), (3,), (), 40, 1, ()),
        Operator("join", "op", "forward", (2, 3), (4,), (), 0, 1, ()),
    ),
    (value(400, "a"), value(400, "b"), value(4, "c"), value(4, "d"), value(4, "e", True)),
)


def test_greedy_ends_one_branch_before_the_other():
    before = BRANCHES.predecessors()
    peaks = [
        peak_bytes(BRANCHES, order)
        for order in permutations(range(5))
        if all(order.index(p) < order.index(i) for i in range(5) for p in before[i])
    ]
    assert (min(peaks), max(peaks)) == (400 + 44, 800 + 44)
    assert peak_bytes(BRANCHES, range(5)) == 804
    assert peak_bytes(BRANCHES, least_peak(BRANCHES)) == 404 + 44


@pytest.mark.parametrize("seed", [None, 0, 1])
def test_peak_is_the_naive_replays(seed):
    graph = capture_model(tiny.model("llama").config, batch=1, seq=16).graph
    order = least_peak(graph) if seed is None else plans.shuffled(graph, seed)
    assert peak_bytes(graph, order) == plans.peak_bytes(graph, order)
    assert sorted(order) == list(range(len(graph.operators)))


def test_greedy_updates_early():
    graph = capture_model(tiny.model("llama").config, batch=1, seq=8).graph
    order = least_peak(graph)
    program = range(len(order))
    assert peak_bytes(graph, order) < 0.8 * peak_bytes(graph, program)
    place = {index: position for position, index in enumerate(order)}
    assert all(place[p] < place[i] for i in order for p in graph.predecessors()[i])
