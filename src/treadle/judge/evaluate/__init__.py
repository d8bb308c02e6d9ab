"""Evaluate: how good a model is, and whether the difference to another one is real."""

from treadle.core.registry import Registry
from treadle.judge.evaluate.base import Task

__all__ = ["TASKS", "evaluate"]

_METHODS = "treadle.judge.evaluate.methods"

TASKS: Registry[Task] = Registry(
    "evaluate task",
    {
        "perplexity": f"{_METHODS}.perplexity:Perplexity",
        "choice": f"{_METHODS}.choice:Choice",
        "exact": f"{_METHODS}.exact:Exact",
    },
)

from treadle.judge.evaluate.apply import evaluate  # noqa: E402  # the driver reads the table above
