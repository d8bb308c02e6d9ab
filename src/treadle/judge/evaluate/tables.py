"""The table of the family's tasks."""

from treadle.core.registry import Registry
from treadle.judge.evaluate.base import Task

__all__ = ["TASKS"]

_METHODS = "treadle.judge.evaluate.methods"

TASKS: Registry[Task] = Registry(
    "evaluate task",
    {
        "perplexity": f"{_METHODS}.perplexity:Perplexity",
        "choice": f"{_METHODS}.choice:Choice",
        "exact": f"{_METHODS}.exact:Exact",
        "recall": f"{_METHODS}.recall:Recall",
    },
)
