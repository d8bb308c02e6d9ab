"""Trees of segments over a pool of random keys and values; not a test itself."""

from typing import NamedTuple

import numpy as np

from treadle.runtime.cache.pages import KeyValues
from treadle.runtime.executor import ModelShape, StepRows


class Branch(NamedTuple):
    pages: list[int]
    length: int
    """Slots before this step."""
    num_rows: int = 1
    is_tree: bool = False
    """Whether its rows are siblings that do not see each other."""


def grown(
    rng: np.random.Generator, size: int, most_pages: int, count: int, rows: int = 1
) -> list[Branch]:
    """Branches of a random tree: each leaves an earlier one at some page, and goes on alone."""
    found: list[Branch] = []
    used = 0
    for number in range(count):
        shared: list[int] = []
        if found and rng.random() < 0.9:
            other = found[int(rng.integers(len(found)))]
            shared = other.pages[: int(rng.integers(0, other.length // size + 1))]
        own = int(rng.integers(1, most_pages + 1))
        pages = [*shared, *range(used, used + own)]
        used += own
        num_rows = int(rng.integers(1, rows + 1))
        low = max(0, size * len(shared))
        length = int(rng.integers(low, max(low + 1, size * len(pages) - num_rows + 1)))
        pages = pages[: -(-(length + num_rows) // size)]
        found.append(Branch(pages, length, num_rows, num_rows > 1 and number % 2 == 0))
    order = rng.permutation(count)
    return [found[n] for n in order]


def step_of(branches: list[Branch], size: int, rng: np.random.Generator, vocab: int) -> StepRows:
    """The next tokens of all branches."""
    counts = [b.num_rows for b in branches]
    starts = np.cumsum([0, *counts]).astype(np.int32)
    positions, slots = [], []
    most = max(counts)
    ancestors = np.zeros((sum(counts), -(-most // 64)), np.uint64)
    prefixes = np.full(len(branches), -1, np.int32)
    for number, b in enumerate(branches):
        for i in range(b.num_rows):
            slot = b.length + i
            positions.append(b.length if b.is_tree else slot)
            slots.append(b.pages[slot // size] * size + slot % size)
            if b.is_tree:
                ancestors[starts[number] + i, i // 64] = 1 << (i % 64)
        if b.is_tree:
            prefixes[number] = b.length
    has_trees = any(b.is_tree for b in branches)
    return StepRows(
        rng.integers(0, vocab, sum(counts)).astype(np.int32),
        np.asarray(positions, np.int32),
        np.asarray(slots, np.int32),
        starts,
        np.asarray([b.length + b.num_rows for b in branches], np.int32),
        np.cumsum([0, *(len(b.pages) for b in branches)]).astype(np.int32),
        np.asarray([page for b in branches for page in b.pages], np.int32),
        np.arange(sum(counts), dtype=np.int32),
        prefixes if has_trees else None,
        ancestors if has_trees else None,
    )


def filled(
    shape: ModelShape, branches: list[Branch], size: int, kv: str, rng: np.random.Generator
) -> KeyValues:
    """A pool whose slots hold random keys and values at the positions of the branches."""
    num_pages = max(page for b in branches for page in b.pages) + 1
    pool = KeyValues(shape.kv_heads, shape.head_dim, num_pages, size, kv)
    for array in (pool.arena.keys, pool.arena.values):
        if kv == "int8":
            array[:] = rng.integers(-127, 128, array.shape)
        elif kv == "int4":
            array[:] = rng.integers(0, 256, array.shape)
        else:
            array[:] = rng.normal(size=array.shape)
    for scales in (pool.arena.key_scales, pool.arena.value_scales):
        if scales is not None and kv == "int4":  # two of 16 bits in each
            halves = rng.uniform(0.1, 0.3, (*scales.shape, 2)).astype(np.float16)
            scales[:] = halves.view(np.float32)[..., 0]
        elif scales is not None:
            scales[:] = rng.uniform(0.005, 0.02, scales.shape)
    for b in branches:
        for place, page in enumerate(b.pages):
            for layer in pool.layers:
                layer.positions[page] = np.arange(place * size, (place + 1) * size)
    return pool
