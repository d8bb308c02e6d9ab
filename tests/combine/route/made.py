"""Scored questions of two kinds, each with a model that is good at it; not a test itself."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from treadle.combine.route.base import RouteData
from treadle.combine.route.records import ScoredQuestions, table_of

MODELS = ("adder", "speller", "middling")
ADDS = ("add", "sum", "plus", "total", "count")
SPELLS = ("spell", "letter", "word", "vowel", "rhyme")


def records(count: int, seed: int = 0, has_cost: bool = False) -> list[dict[str, Any]]:
    """Return questions; the task's own model gets 0.9 of it on average, and others less."""
    drawn = np.random.default_rng(seed)
    found = []
    for number in range(count):
        is_sum = number % 2 == 0
        words = drawn.choice(ADDS if is_sum else SPELLS, size=4)
        good, bad = drawn.uniform(0.8, 1.0), drawn.uniform(0.0, 0.2)
        scores = dict(zip(MODELS, (good, bad) if is_sum else (bad, good), strict=False))
        record: dict[str, Any] = {
            "question": f"{' '.join(words)} {seed}{number}?",
            "task": "sums" if is_sum else "letters",
            "scores": {**scores, "middling": 0.5},
        }
        if has_cost:
            record["cost"] = {"adder": 0.004, "speller": 0.002, "middling": 0.001}
        found.append(record)
    return found


def written(file: Path, rows: list[dict[str, Any]]) -> Path:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def table(rows: list[dict[str, Any]]) -> ScoredQuestions:
    return table_of((f"record {number}", row) for number, row in enumerate(rows))


def data(
    count: int = 40, dim: int = 6, seed: int = 0, share_known: float = 1.0, has_tasks: bool = True
) -> RouteData:
    """Return vectors of two kinds, and what three models are worth on them."""
    drawn = np.random.default_rng(seed)
    kinds = np.arange(count) % 2
    vectors = drawn.standard_normal((count, dim)) * 0.3
    vectors[:, 0] += np.where(kinds == 0, 2, -2)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    worth = np.stack([0.9 - 0.8 * kinds, 0.1 + 0.8 * kinds, np.full(count, 0.5)], axis=1)
    worth = np.clip(worth + drawn.uniform(-0.1, 0.1, worth.shape), 0, 1)
    worth[drawn.random(worth.shape) > share_known] = np.nan
    tasks = tuple("ab"[kind] for kind in kinds) if has_tasks else None
    return RouteData(vectors.astype(np.float32), worth, worth, None, tasks, None)


def kinds_of(made: RouteData) -> np.ndarray:
    """Return the best model of each question."""
    return np.arange(len(made.vectors)) % 2


def texts_of(made: RouteData) -> list[str]:
    return [""] * len(made.vectors)
