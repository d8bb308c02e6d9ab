import pytest

from learn.plan.cases import generator
from learn.plan.graphs import Builder, drawn_graph, training_step
from learn.plan.naive import naive_live_bytes, naive_peak
from treadle.core.errors import DataError
from treadle.learn.plan import LAYOUTS, ORDERS
from treadle.learn.plan.account import offsets_by_value
from treadle.learn.plan.base import Order, Ordered
from treadle.learn.plan.methods.memory import Memory
from treadle.learn.plan.stages import stages_of
from treadle.model.graph.schema import Graph, Operator


def planned(graph, order="roam", layout="nested", **settings):
    return Memory(**settings).plan(graph, ORDERS.resolve(order), LAYOUTS.resolve(layout), 0)


@pytest.mark.parametrize("seed", range(5))
def test_reference_order_then_layout(seed):
    plan = planned(drawn_graph(generator(seed), 20), "least_peak_first", "best_fit")
    method = LAYOUTS.resolve("best_fit")
    assert plan.placed == method.place(plan.blocks, generator())
    assert plan.ordered == ORDERS.resolve("least_peak_first").order(plan.problem, generator())
    stages = stages_of(plan, 64)
    assert stages.donated == naive_peak(plan.problem, plan.ordered.order)
    assert stages.arena == plan.arena_bytes >= naive_live_bytes(plan.blocks)
    assert stages.ordered >= stages.donated


def test_every_temporary_has_a_place_and_heirs_that_of_their_giver():
    graph = training_step(3)
    plan = planned(graph, "program")
    offsets = offsets_by_value(plan)
    assert set(offsets) == {i for i, v in enumerate(graph.values) if v.kind == "temporary"}
    shared = [block for block in plan.blocks if len(block.values) > 1]
    assert shared
    for block in shared:
        assert len({offsets[plan.problem.value_of[value]] for value in block.values}) == 1


def test_limits_alignment_and_no_donation():
    graph = training_step(3)
    plan = planned(graph, alignment_bytes=512)
    assert all(offset % 512 == 0 for offset in plan.placed.offsets)
    assert all(len(block.values) < 2 for block in planned(graph, donate=False).blocks)


def test_meaning_a_plan_beats_the_traced_order_and_a_random_one():
    graph = training_step(8, width=16, batch=1)
    stages = stages_of(planned(graph), 64)
    assert stages.arena < 0.4 * stages.traced
    assert stages.arena < planned(graph, "random").arena_bytes
    assert stages.arena <= stages.updates_in_backward


class Backwards(Order):
    """An order that is none."""

    name = "backwards"

    def order(self, problem, generator):
        return Ordered(tuple(reversed(range(len(problem.tasks)))))


def test_a_foreign_order_is_checked():
    with pytest.raises(DataError, match="which it needs; return a topological order"):
        Memory().plan(training_step(2), Backwards(), LAYOUTS.resolve("nested"), 0)


def operator(name, inputs, outputs, after=()):
    return Operator(name, "test", "forward", inputs, outputs, after, 0, 0, ())


def test_a_cyclic_graph_is_refused_by_name():
    built = Builder("cyclic")
    built.value("x", 64)
    built.value("y", 64)
    graph = Graph(
        "cyclic",
        (operator("first", (1,), (0,)), operator("second", (0,), (1,))),
        tuple(built.values),
    )
    with pytest.raises(DataError, match="'cyclic' has a cycle through first, second"):
        planned(graph)


def test_a_graph_out_of_order_is_refused_by_name():
    built = Builder("late")
    built.value("x", 64)
    graph = Graph(
        "late",
        (operator("reader", (0,), ()), operator("maker", (), (0,))),
        tuple(built.values),
    )
    with pytest.raises(DataError, match="lists 'reader' before 'maker', which it needs"):
        planned(graph)
