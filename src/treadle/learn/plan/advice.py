"""Whether a step fits into a budget, and what to switch on so that it does."""

from collections.abc import Iterator
from typing import NamedTuple

from treadle.core.errors import CapacityError, UnsupportedModelError
from treadle.core.result import Measurement
from treadle.core.sizes import spoken
from treadle.learn.plan.account import extra_fraction
from treadle.learn.plan.base import Layout, Order, Plan, Planner
from treadle.learn.plan.listing import program
from treadle.learn.plan.problem import build_problem
from treadle.learn.plan.replay import peak_of
from treadle.learn.plan.step import TrainingStep, read_step
from treadle.model.graph.schema import Graph

__all__ = ["Advice", "advise"]

_NUM_CHUNKS = 8
"""Chunks of the loss that are tried: logits then take an eighth, and the head runs twice."""
_FRACTIONS = (0.02, 0.1, 0.35)
"""Shares of the arithmetic that are tried: elementwise operators only, some, most of a forward pass
(which is a third of a step)."""


class Advice(NamedTuple):
    """The answer to a budget."""

    notes: list[str]
    measurements: list[Measurement]


def advise(
    step: TrainingStep,
    plan: Plan,
    budget_bytes: int,
    planner: Planner,
    order: Order,
    layout: Layout,
    seed: int,
) -> Advice:
    """Say whether `plan` fits; if not, plan again with more switched on.

    Raises:
        CapacityError: Nothing that was tried fits; the message says the least that was found.
    """
    total = _total(plan)
    margin = Measurement(
        name="margin",
        value=float(budget_bytes - total),
        unit="bytes of the budget left",
        basis="simulated",
        better="higher",
    )
    if total <= budget_bytes:
        return Advice([_fits(plan, total, budget_bytes)], [margin])
    tried = [f"as asked {spoken(total)}"]
    least = total
    for flags, graph, using in _switches(step, plan, budget_bytes, planner):
        other = using.plan(graph, order, layout, seed)
        extra = (_flops(other) - _flops(plan)) / max(1, _flops(plan))
        tried.append(f"with {flags} {spoken(_total(other))}")
        least = min(least, _total(other))
        if _total(other) <= budget_bytes:
            note = (
                f"Does not fit: {spoken(total)}, the budget is {spoken(budget_bytes)}. Switch on "
                f"{flags}: {spoken(_total(other))}, for {extra:+.1%} arithmetic."
            )
            return Advice([note], [margin])
    raise CapacityError(
        f"The step does not fit into {spoken(budget_bytes)}: {', '.join(tried)}; the least found "
        f"is {spoken(least)}, of which {spoken(plan.graph.persistent_bytes)} are parameters, "
        f"optimizer states and data. {_what_else(step, plan, budget_bytes)}"
    )


def _switches(
    step: TrainingStep, plan: Plan, budget_bytes: int, planner: Planner
) -> Iterator[tuple[str, Graph, Planner]]:
    """Yield what can be switched on, the cheapest first: its flags, the graph and the planner."""
    if plan.graph.persistent_bytes >= budget_bytes:
        return
    graphs = {"": plan.source}
    chunked = _chunked(step)
    if chunked is not None:
        flags = f"--chunked-loss {_NUM_CHUNKS}"
        graphs = {flags: chunked, **graphs}
        yield flags, chunked, planner
    asked = float(planner.settings().get("recompute_fraction", 1.0))
    for fraction in _FRACTIONS:
        for flags, graph in graphs.items():
            if fraction > asked:
                using = planner.model_copy(update={"recompute_fraction": fraction})
                yield f"{flags} --recompute-fraction {fraction:g}".strip(), graph, using


def _total(plan: Plan) -> int:
    return plan.graph.persistent_bytes + plan.arena_bytes


def _flops(plan: Plan) -> int:
    return sum(operator.flops for operator in plan.graph.operators)


def _fits(plan: Plan, total: int, budget_bytes: int) -> str:
    plain = build_problem(plan.source, donate=False)
    traced = plan.graph.persistent_bytes + peak_of(plain, program(plain))
    how = "also in the traced order" if traced <= budget_bytes else "in this plan only"
    return (
        f"Fits {how}: {spoken(total)} of {spoken(budget_bytes)}; as traced it takes "
        f"{spoken(traced)}. The plan costs {extra_fraction(plan):.1%} arithmetic."
    )


def _chunked(step: TrainingStep) -> Graph | None:
    """Return the step with a chunked loss; None where it has one, or cannot have one."""
    if step.is_file or step.chunked_loss is not None:
        return None
    try:
        return read_step(step._replace(chunked_loss=_NUM_CHUNKS)).graph
    except UnsupportedModelError:
        return None


def _what_else(step: TrainingStep, plan: Plan, budget_bytes: int) -> str:
    """Return what would help that changes the training, in the imperative."""
    if plan.graph.persistent_bytes >= budget_bytes:
        less = _less_to_hold(step)
        if step.settings().get("optimizer", "sgd") != "sgd":
            return f"Choose --optimizer sgd, which keeps one state less, or a smaller model.{less}"
        return f"Choose a smaller model, or shard it over several devices.{less}"
    if step.clip_norm is not None:
        return "Leave out --clip-norm, which holds all gradients until the last is there."
    if not step.is_file and not step.checkpointing:
        return "Switch on --checkpointing, or lower --batch or --seq."
    if (step.batch or 1) > 1:
        return f"Lower --batch (here {step.batch}) or --seq."
    return "Lower --seq, or choose a smaller model."


def _less_to_hold(step: TrainingStep) -> str:
    """Return a sentence on what makes parameters, gradients and states fewer or smaller."""
    if step.is_file:
        return ""
    found = []
    if step.lora_rank is None and step.learn is None:
        found.append("--lora-rank 16 (a part learns)")
    if step.settings()["dtype"] == "float32":
        found.append("--dtype bfloat16 (all takes half)")
    return f" Or give {' or '.join(found)}." if found else ""
