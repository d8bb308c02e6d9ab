"""`torch.compile(backend="treadle")`: both halves of a compiled step in the order of ROAM.

Named in pyproject.toml, so that torch finds the backend by itself once treadle is installed.
"""

from collections.abc import Sequence

from treadle.core.seed import numpy_stream
from treadle.learn.plan.problem import build_problem
from treadle.learn.plan.tables import ORDERS
from treadle.model.graph.backend import Backend
from treadle.model.graph.schema import Graph

__all__ = ["least_known", "treadle"]


def least_known(graph: Graph) -> Sequence[int]:
    """Return the order of least peak that `roam` finds where nothing is written over."""
    problem = build_problem(graph, donate=False, alignment_bytes=1)
    return ORDERS.resolve("roam").order(problem, numpy_stream(0, "order")).order


treadle = Backend(least_known)
"""What torch calls."""
