"""Every order and every layout on drawn graphs and on a training step; the axes crossed."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from learn.plan.cases import drawn_problem, empty_problem, generator, order_of, single_problem
from learn.plan.graphs import graphs, training_step
from learn.plan.naive import is_topological, naive_live_bytes, naive_peak, overlaps
from treadle.core.method import Control, Paper, Standard
from treadle.learn.plan import LAYOUTS, ORDERS, PLANNERS
from treadle.learn.plan.problem import build_problem
from treadle.learn.plan.replay import blocks_of, peak_of

FAST = {"whole_graph_ilp": {"time_limit_seconds": 5.0}}


def resolved(table, name):
    return table.resolve({"method": name, **FAST.get(name, {})})


@pytest.mark.parametrize("table", [PLANNERS, ORDERS, LAYOUTS], ids=lambda t: t.axis)
def test_the_table_names_its_methods(table):
    for name in table.table:
        cls = table[name]
        assert cls.name == name
        assert isinstance(cls.paper, Paper | Standard | Control)
        assert cls.summary().endswith(".")
        assert all(field.description for field in cls.model_fields.values())
        method = table.resolve(name)
        assert table.resolve(method.settings()) == method


@pytest.mark.parametrize("name", ORDERS.table)
@settings(max_examples=25, deadline=None)
@given(graph=graphs(8), donate=st.booleans())
def test_every_order_is_topological_and_never_beats_its_bound(name, graph, donate):
    problem = build_problem(graph, donate=donate)
    ordered = resolved(ORDERS, name).order(problem, generator())
    assert is_topological(problem, ordered.order)
    peak = peak_of(problem, ordered.order)
    assert peak == naive_peak(problem, ordered.order)
    assert ordered.bound_bytes <= peak


@pytest.mark.parametrize("name", [name for name in ORDERS.table if name != "whole_graph_ilp"])
@pytest.mark.parametrize("clip", [False, True])
def test_every_order_of_a_training_step(name, clip):
    problem = build_problem(training_step(5, clip=clip, scratch=64))
    assert is_topological(problem, order_of(resolved(ORDERS, name), problem))


@pytest.mark.parametrize("name", ORDERS.table)
def test_limits_no_task_and_one(name):
    assert order_of(resolved(ORDERS, name), empty_problem()) == []
    assert order_of(resolved(ORDERS, name), single_problem()) == [0]


@pytest.mark.parametrize("name", LAYOUTS.table)
@settings(max_examples=25, deadline=None)
@given(graph=graphs(10))
def test_no_layout_overlaps_or_beats_what_is_live(name, graph):
    problem = build_problem(graph)
    blocks = blocks_of(problem, range(len(problem.tasks)))
    offsets = resolved(LAYOUTS, name).place(blocks, generator()).offsets
    assert len(offsets) == len(blocks)
    assert min(offsets, default=0) >= 0
    assert not overlaps(blocks, offsets)
    arena = max((o + b.num_bytes for o, b in zip(offsets, blocks, strict=True)), default=0)
    assert arena >= naive_live_bytes(blocks)


@pytest.mark.parametrize("name", LAYOUTS.table)
def test_limits_no_block_and_one(name):
    method = resolved(LAYOUTS, name)
    assert method.place([], generator()).offsets == ()
    only = blocks_of(single_problem(), [0])[:1]
    assert method.place(only, generator()).offsets == (0,)


@pytest.mark.parametrize("order", [name for name in ORDERS.table if name != "whole_graph_ilp"])
@pytest.mark.parametrize("layout", LAYOUTS.table)
def test_the_axes_crossed(order, layout):
    graph = training_step(3, scratch=64)
    plan = PLANNERS.resolve("memory").plan(
        graph, resolved(ORDERS, order), resolved(LAYOUTS, layout), 0
    )
    assert not overlaps(plan.blocks, plan.placed.offsets)
    assert plan.arena_bytes >= naive_live_bytes(plan.blocks)
    again = PLANNERS.resolve("memory").plan(
        graph, resolved(ORDERS, order), resolved(LAYOUTS, layout), 0
    )
    assert again.ordered == plan.ordered
    assert again.placed == plan.placed


@pytest.mark.parametrize("name", ORDERS.table)
def test_only_drawn_orders_depend_on_the_seed(name):
    problem = drawn_problem(5, 12)
    method = resolved(ORDERS, name)
    orders = {tuple(method.order(problem, np.random.default_rng(s)).order) for s in range(4)}
    assert (len(orders) > 1) == (name == "random")
