"""Plan: where each operator and tensor of a training step lives, and when."""

from treadle.learn.plan.apply import plan
from treadle.learn.plan.tables import LAYOUTS, ORDERS, PLANNERS

__all__ = ["LAYOUTS", "ORDERS", "PLANNERS", "plan"]
