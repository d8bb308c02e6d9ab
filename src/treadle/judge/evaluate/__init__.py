"""Evaluate: how good a model is, and whether the difference to another one is real."""

from treadle.judge.evaluate.apply import evaluate
from treadle.judge.evaluate.grid import evaluate_grid
from treadle.judge.evaluate.tables import TASKS

__all__ = ["TASKS", "evaluate", "evaluate_grid"]
