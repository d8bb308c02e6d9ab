"""What a plan says of itself: measurements, figures, and plan.json."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from treadle.core.result import Figure, Measurement, Series
from treadle.core.sizes import spoken
from treadle.learn.plan.base import Plan
from treadle.learn.plan.listing import program
from treadle.learn.plan.problem import Problem, build_problem
from treadle.learn.plan.replay import live_at
from treadle.learn.plan.stages import Stages

__all__ = [
    "FORMAT",
    "PLAN_FILE",
    "extra_fraction",
    "figures",
    "measurements",
    "offsets_by_value",
    "write_plan",
]

FORMAT, PLAN_FILE = "treadle.memory-plan/1", "plan.json"
_NUM_POINTS = 400
"""Points of a curve: each is the most of its stretch, so that no peak is lost."""
_NUM_NAMED = 12
"""Values that a figure names."""
_MEGA = 1e6


def offsets_by_value(plan: Plan) -> dict[int, int]:
    """Return the first byte of each of the graph's temporary values."""
    return {
        plan.problem.value_of[value]: offset
        for block, offset in zip(plan.blocks, plan.placed.offsets, strict=True)
        for value in block.values
    }


def write_plan(plan: Plan, stages: Stages, settings: dict[str, Any], folder: Path) -> Path:
    """Write the plan as `folder`/plan.json, beside and renamed into place."""
    written = {
        "format": FORMAT,
        "graph": plan.graph.name,
        "settings": settings,
        "order": list(plan.ordered.order),
        "offsets": {str(value): low for value, low in sorted(offsets_by_value(plan).items())},
        "recomputed": list(plan.recomputed),
        "arena_bytes": plan.arena_bytes,
        "peak_bytes": stages.donated,
        "bound_bytes": plan.ordered.bound_bytes,
        "notes": [*plan.ordered.notes, *plan.placed.notes],
    }
    path = folder / PLAN_FILE
    part = path.with_name(f".{PLAN_FILE}.part")
    part.write_text(json.dumps(written) + "\n")
    part.replace(path)
    return path


def measurements(plan: Plan, stages: Stages) -> list[Measurement]:
    """Return the bytes of each stage, what bounds them, and what planning took."""
    persistent = plan.graph.persistent_bytes

    def simulated(name: str, value: float, unit: str, note: str = "") -> Measurement:
        return Measurement(
            name=name, value=value, unit=unit, note=note, basis="simulated", better="lower"
        )

    found = [
        simulated("total", persistent + stages.arena, "bytes", "persistent and arena"),
        simulated("persistent", persistent, "bytes", "parameters, states and data"),
        simulated("traced", stages.traced, "bytes", "other values, in the traced order"),
        simulated(
            "updates_in_backward",
            stages.updates_in_backward,
            "bytes",
            "with each update as early as possible, as optimizer hooks do it",
        ),
        simulated("ordered", stages.ordered, "bytes", "in the planned order"),
        simulated("donated", stages.donated, "bytes", "and with results over dying inputs"),
        simulated("arena", stages.arena, "bytes", "and at planned addresses"),
        simulated(
            "fragmentation",
            (stages.arena - stages.donated) / stages.arena if stages.arena else 0.0,
            "of the arena",
        ),
    ]
    bound = plan.ordered.bound_bytes
    if bound:
        gap = (stages.donated - bound) / bound
        found.append(simulated("bound", bound, "bytes", "no order needs less"))
        found.append(simulated("gap", gap, "above the bound"))
    if plan.recomputed:
        note = f"{len(plan.recomputed)} values are made again in the backward pass"
        found.append(simulated("recomputed", extra_fraction(plan), "of the arithmetic", note))
    seconds = plan.order_seconds + plan.layout_seconds
    return [*found, Measurement(name="planning", value=seconds, unit="seconds", better="lower")]


def figures(plan: Plan, stages: Stages, alignment_bytes: int) -> list[Figure]:
    """Return memory over time before and after, and what is there at the peak."""
    plain = build_problem(plan.source, donate=False, alignment_bytes=alignment_bytes)
    return [
        Figure(
            kind="line",
            title="Memory over the step, without what is persistent",
            basis="simulated",
            x_label="operator",
            y_label="MB",
            series=[
                _curve("as traced", stages.before.profile),
                _curve("planned", stages.after.profile),
            ],
        ),
        _at_peak("traced order", plain, program(plain), stages.before.profile),
        _at_peak("plan", plan.problem, plan.ordered.order, stages.after.profile),
        _lives(plan),
    ]


def extra_fraction(plan: Plan) -> float:
    """Return the arithmetic that is repeated, as a share of the step's."""
    return plan.extra_flops / max(1, sum(operator.flops for operator in plan.source.operators))


def _curve(name: str, profile: tuple[int, ...]) -> Series:
    width = -(-len(profile) // _NUM_POINTS) or 1
    starts = range(0, len(profile), width)
    return Series(
        name=name,
        x=[float(start) for start in starts],
        y=[max(profile[start : start + width]) / _MEGA for start in starts],
    )


def _at_peak(name: str, problem: Problem, order: Sequence[int], profile: tuple[int, ...]) -> Figure:
    """Show what is in memory at the peak, by the operator that made it."""
    position = profile.index(max(profile)) if profile else 0
    groups: dict[str, list[int]] = {}
    for value in live_at(problem, order, position):
        producer = problem.producers[value]
        op = problem.names[value] if producer < 0 else problem.tasks[producer].op
        groups.setdefault(op, []).append(value)
    sizes = {op: sum(problem.sizes[v] for v in values) for op, values in groups.items()}
    ranked = sorted(groups, key=lambda op: (-sizes[op], op))
    bars = {_named(problem, op, groups[op]): sizes[op] / _MEGA for op in ranked[:_NUM_NAMED]}
    if rest := ranked[_NUM_NAMED:]:
        bars[f"{len(rest)} others"] = sum(sizes[op] for op in rest) / _MEGA
    task = problem.tasks[order[position]] if profile else None
    where = f"{task.name} ({task.op})" if task else "nothing"
    return Figure(
        kind="bar",
        title=f"In memory at the peak of the {name}: {where}",
        basis="simulated",
        x_label="made by",
        y_label="MB",
        series=[Series(name=name, x=list(bars), y=list(bars.values()))],
    )


def _named(problem: Problem, op: str, values: Sequence[int]) -> str:
    """Return what a bar stands for: a value by its name, several by their operator and number."""
    if len(values) == 1:
        return _source(problem, values[0])
    return f"{len(values)} x {op.removeprefix('aten.').removesuffix('.default')}"


def _source(problem: Problem, value: int) -> str:
    producer = problem.producers[value]
    return problem.names[value] if producer < 0 else problem.tasks[producer].name


def _lives(plan: Plan) -> Figure:
    largest = sorted(
        range(len(plan.blocks)), key=lambda i: (-plan.blocks[i].num_bytes, plan.blocks[i].start)
    )[:_NUM_NAMED]
    series = []
    for index in largest:
        block = plan.blocks[index]
        name = _source(plan.problem, block.values[0]) if block.values else "scratch"
        label = f"{name}, {spoken(block.num_bytes)} at {spoken(plan.placed.offsets[index])}"
        lasts = float(block.end - block.start + 1)
        series.append(Series(name=label, x=[float(block.start)], y=[lasts]))
    return Figure(
        kind="timeline",
        title="Lives of the largest blocks of the arena",
        basis="simulated",
        x_label="operator",
        y_label="",
        series=series,
    )
