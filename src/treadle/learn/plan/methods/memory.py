"""The memory plan of a step: an order, then a layout for it."""

from typing import Annotated, ClassVar

from pydantic import Field

from treadle.core.method import Paper
from treadle.core.seed import numpy_stream
from treadle.core.timing import Stopwatch
from treadle.learn.plan.base import Layout, Order, Plan, Planner
from treadle.learn.plan.fitting import arena_of, check_layout
from treadle.learn.plan.problem import build_problem, check_order
from treadle.learn.plan.recompute import recompute
from treadle.learn.plan.replay import blocks_of
from treadle.model.graph.schema import Graph


class Memory(Planner):
    """Order a step's operators for a least peak, then place its values in one arena.

    The peak of an order is max_i Σ z_t over the values t that are live at position i; the arena is
    max_t (o_t + z_t) over offsets at which values that are live together do not overlap. The paper
    splits the problem in the same two and solves each on pieces. We add donation: an elementwise
    operator writes its result over an operand of equal size that dies with it; and, if asked,
    values that are made again in the backward pass instead of being kept.

    Paper: Shu et al., "ROAM: memory-efficient large DNN training via optimized operator ordering
    and memory layout", 2023.
    """

    name: ClassVar[str] = "memory"
    paper = Paper(
        "ROAM: memory-efficient large DNN training via optimized operator ordering and memory "
        "layout",
        2023,
        "https://arxiv.org/abs/2310.19295",
    )

    donate: bool = True
    """Let operators write their result over an input that dies with them."""
    recompute_fraction: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Arithmetic of the step that may be repeated in the backward pass, so that less is kept."""
    alignment_bytes: Annotated[int, Field(ge=1, le=1 << 21)] = 64
    """Sizes and offsets are multiples of it: 64 on CPUs, 512 on CUDA."""

    def plan(self, graph: Graph, order: Order, layout: Layout, seed: int) -> Plan:
        """Return the plan; order and layout are checked, whoever made them."""
        with Stopwatch() as ordering:
            planned = recompute(graph, self.recompute_fraction)
            problem = build_problem(
                planned.graph, donate=self.donate, alignment_bytes=self.alignment_bytes
            )
            ordered = order.order(problem, numpy_stream(seed, "order"))
        check_order(problem, ordered.order)
        with Stopwatch() as placing:
            blocks = blocks_of(problem, ordered.order)
            placed = layout.place(blocks, numpy_stream(seed, "layout"))
        check_layout(blocks, placed.offsets)
        return Plan(
            graph,
            planned.graph,
            problem,
            ordered,
            tuple(blocks),
            placed,
            arena_of(blocks, placed.offsets),
            planned.values,
            planned.extra_flops,
            ordering.wall_seconds,
            placing.wall_seconds,
        )
