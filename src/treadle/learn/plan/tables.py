"""The tables of the family's methods, orders and layouts."""

from treadle.core.registry import Registry
from treadle.learn.plan.base import Layout, Order, Planner

__all__ = ["LAYOUTS", "ORDERS", "PLANNERS"]

_METHODS = "treadle.learn.plan.methods"

PLANNERS: Registry[Planner] = Registry("planner", {"memory": f"{_METHODS}.memory:Memory"})

ORDERS: Registry[Order] = Registry(
    "order",
    {
        "program": f"{_METHODS}.program:Program",
        "updates_asap": f"{_METHODS}.updates_asap:UpdatesAsap",
        "least_peak_first": f"{_METHODS}.least_peak_first:LeastPeakFirst",
        "depth_first": f"{_METHODS}.depth_first:DepthFirst",
        "breadth_first": f"{_METHODS}.breadth_first:BreadthFirst",
        "random": f"{_METHODS}.random:Random",
        "inductor": f"{_METHODS}.inductor:Inductor",
        "whole_graph_ilp": f"{_METHODS}.whole_graph_ilp:WholeGraphIlp",
        "roam": f"{_METHODS}.roam:Roam",
    },
)

LAYOUTS: Registry[Layout] = Registry(
    "layout",
    {
        "best_fit": f"{_METHODS}.best_fit:BestFit",
        "long_lived_first": f"{_METHODS}.long_lived_first:LongLivedFirst",
        "hill_climb": f"{_METHODS}.hill_climb:HillClimb",
        "exact": f"{_METHODS}.exact:Exact",
        "nested": f"{_METHODS}.nested:Nested",
    },
)
