"""Whole evaluations, for the tests of the family; not a test itself."""

from pathlib import Path

from treadle import evaluate
from treadle.core.result import Result
from treadle.judge.evaluate import TASKS

SMALL = {"method": "perplexity", "num_windows": 5, "window_tokens": 20}


def measure(model: Path, out: Path, data: str, task: dict = SMALL, **settings: object) -> Result:
    return evaluate(model, out, TASKS.resolve(task), data=data, **settings)
