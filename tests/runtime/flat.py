"""Steps by hand for both executors; not a test itself."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from treadle.native.loader import library
from treadle.runtime.cache.pages import KeyValues
from treadle.runtime.executor import StepRows
from treadle.runtime.native_step.llama import LlamaStep
from treadle.runtime.probe import Observable
from treadle.runtime.transformers_step.generic import GenericExecutor

EXECUTORS = ["generic", *(["native"] if library("step") is not None else [])]
PAGE = 8


def executor_of(folder: Path, name: str) -> Observable:
    return LlamaStep(folder, "fp32", 2) if name == "native" else GenericExecutor.from_folder(folder)


def pool_of(
    executor: Observable, dtype: str = "fp32", page_size: int = PAGE, num_slots: int = 512
) -> KeyValues:
    shape = executor.shape
    return KeyValues(shape.kv_heads, shape.head_dim, num_slots // page_size, page_size, dtype)


def ints(values: Sequence[int]) -> np.ndarray:
    return np.asarray(values, np.int32)


def rows_of(
    parts: Sequence[tuple[Sequence[int], int, Sequence[int]]],
    page_size: int = PAGE,
    wanted: Sequence[int] | None = None,
    **others: np.ndarray,
) -> StepRows:
    """Rows of several requests: (tokens, first position, pages) each; all wanted by default."""
    tokens, positions, slots, starts, contexts, page_starts, pages = [], [], [], [0], [], [0], []
    for own, first, table in parts:
        places = range(first, first + len(own))
        tokens += list(own)
        positions += places
        slots += [table[p // page_size] * page_size + p % page_size for p in places]
        starts.append(len(tokens))
        contexts.append(first + len(own))
        pages += table
        page_starts.append(len(pages))
    wanted = range(len(tokens)) if wanted is None else wanted
    arrays = [tokens, positions, slots, starts, contexts, page_starts, pages, wanted]
    return StepRows(*map(ints, arrays), **others)
