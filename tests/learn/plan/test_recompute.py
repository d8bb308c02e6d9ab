"""Values made again: what the rewritten step computes, and what it saves."""

import pytest

from learn.plan.graphs import Builder, training_step
from learn.plan.naive import naive_peak
from treadle.learn.plan.bounds import reach_of
from treadle.learn.plan.problem import build_problem
from treadle.learn.plan.recompute import recompute
from treadle.model.graph.schema import load_graph, save_graph

FREE = {f"act{layer}" for layer in range(8)}


def formulas(graph):
    """Return what each value is, as a formula of the step's inputs: clones and originals alike."""
    found = {
        index: value.name
        for index, value in enumerate(graph.values)
        if index not in {v for operator in graph.operators for v in operator.outputs}
    }
    for operator in graph.operators:
        for place, value in enumerate(operator.outputs):
            inputs = ", ".join(found[i] for i in operator.inputs)
            found[value] = f"{operator.op}[{place}]({inputs})"
    return found


def meaning(graph):
    """Return what the step computes: its outputs, and what each update reads."""
    found = formulas(graph)
    outputs = [found[i] for i, value in enumerate(graph.values) if value.is_output]
    updates = {
        operator.name: [found[i] for i in operator.inputs]
        for operator in graph.operators
        if operator.phase == "update"
    }
    return outputs, updates


def rewritten(fraction, **settings):
    graph = training_step(6, batch=32, helpers=False, **settings)
    return graph, recompute(graph, fraction)


@pytest.mark.parametrize("fraction", [0.01, 0.1, 0.5])
def test_the_step_computes_the_same(fraction):
    graph, found = rewritten(fraction)
    assert found.values
    assert meaning(found.graph) == meaning(graph)


@pytest.mark.parametrize("fraction", [0.01, 0.1, 0.5])
def test_no_more_is_repeated_than_allowed_and_all_of_it_is_counted(fraction):
    graph, found = rewritten(fraction)
    again = [o for o in found.graph.operators if o.name.endswith("@again")]
    total = sum(operator.flops for operator in graph.operators)
    assert sum(operator.flops for operator in again) == found.extra_flops <= fraction * total
    kept = [o.name for o in found.graph.operators if not o.name.endswith("@again")]
    assert kept == [operator.name for operator in graph.operators]


def test_what_the_backward_pass_reads_again_is_not_kept():
    _, found = rewritten(0.1)
    names = {value.name: index for index, value in enumerate(found.graph.values)}
    for value in found.values:
        readers = [o for o in found.graph.operators if names[value] in o.inputs]
        assert {reader.phase for reader in readers} <= {"forward"}
        assert any(names[value + "@again"] in o.inputs for o in found.graph.operators)


def test_meaning_the_peak_falls_as_more_may_be_repeated():
    graph, _ = rewritten(0.0)
    peaks = []
    for fraction in (0.0, 0.01, 0.1):
        problem = build_problem(recompute(graph, fraction).graph)
        peaks.append(naive_peak(problem, range(len(problem.tasks))))
    assert peaks[0] > peaks[1] > peaks[2]
    assert peaks[0] > 1.3 * peaks[2]


def test_limits_nothing_allowed_changes_nothing():
    graph, found = rewritten(0.0)
    assert found == (graph, (), 0)


def test_a_clone_that_reads_a_parameter_runs_before_its_update():
    _, found = rewritten(1.0)
    problem = build_problem(found.graph)
    reach = reach_of(problem)
    clones = [
        (t, o.inputs)
        for t, o in enumerate(found.graph.operators)
        if o.name.endswith("@again") and o.name.startswith("mm")
    ]
    assert clones, "a case with a repeated product"
    for clone, inputs in clones:
        for update, operator in enumerate(found.graph.operators):
            if operator.phase == "update" and set(inputs) & set(operator.inputs):
                assert reach.is_before(clone, update)


def test_the_rewritten_step_is_a_graph_like_others(tmp_path):
    _, found = rewritten(0.1)
    save_graph(found.graph, tmp_path / "graph.json")
    assert load_graph(tmp_path / "graph.json") == found.graph


def one_saved(op, change=None):
    """Return a step whose one saved value is made by `op`, and maybe changed in place."""
    built = Builder("one")
    built.value("x", 640, "data")
    built.run("make", ["x"], [("big", 64000)])
    built.operators[0] = built.operators[0]._replace(op=op)
    if change:
        built.run("change", ["big"], phase="forward")
        built.operators[1] = built.operators[1]._replace(op=change)
    built.run("other", ["x"], [("o", 128000)])
    built.run("reduce", ["o"], [("loss", 64)])
    built.run("grad", ["loss", "big"], [("g", 64)], phase="backward", outputs=["g"])
    return built.graph()


def test_what_draws_numbers_or_is_changed_in_place_is_kept():
    assert recompute(one_saved("aten.relu.default"), 1.0).values == ("big",)
    assert recompute(one_saved("aten.native_dropout.default"), 1.0).values == ()
    assert recompute(one_saved("aten.bernoulli.p"), 1.0).values == ()
    assert recompute(one_saved("aten.relu_.default"), 1.0).values == ()
    assert recompute(one_saved("aten.relu.default", "aten.add_.Tensor"), 1.0).values == ()
