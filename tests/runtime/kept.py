"""What a text sees under a policy of positions alone, in plain loops; not a test itself."""

from collections.abc import Sequence

import numpy as np

from treadle.runtime.evict.base import Eviction
from treadle.runtime.evict.cached import Bools, Cached, Floats
from treadle.runtime.evict.choosing import choose
from treadle.runtime.evict.keeping import Keeping


def cached_of(
    positions: np.ndarray,
    kv_heads: Sequence[int],
    num_tokens: int,
    scores: Floats | None = None,
    **others: object,
) -> Cached:
    """A prompt's entries, of which nothing was noted."""
    noted = np.zeros(positions.shape, np.float32) if scores is None else scores
    return Cached(positions, tuple(kv_heads), num_tokens, num_tokens, noted, **others)


def keep_of(method: Eviction, cached: Cached, budget: int | None, is_last: bool = True) -> Bools:
    """Which entries stay."""
    return choose(method, method.score(cached), cached, budget, is_last)


def kept_sets(
    keeping: Keeping, kv_heads: Sequence[int], num_tokens: int, num_prompt: int
) -> list[list[list[int]]]:
    """For each token the positions that each head sees, itself included."""
    held: list[list[int]] = [[] for _ in range(sum(kv_heads))]
    found = []
    for place in range(num_tokens):
        for own in held:
            own.append(place)
        found.append([list(own) for own in held])
        count = place + 1
        budget = keeping.entries(count, num_prompt)
        if keeping.is_end(count, num_prompt) and max(map(len, held)) > budget:
            wide = np.full((len(held), max(map(len, held))), -1, np.int32)
            for row, own in zip(wide, held, strict=True):
                row[: len(own)] = own
            cached = cached_of(wide, kv_heads, count)
            is_last = count <= num_prompt < count + keeping.method.chunk_tokens
            chosen = keep_of(keeping.method, cached, budget, is_last)
            held = [
                [p for p, stays in zip(row, keeps, strict=True) if stays and p >= 0]
                for row, keeps in zip(wide.tolist(), chosen.tolist(), strict=True)
            ]
    return found


def visible(
    keeping: Keeping, kv_heads: Sequence[int], num_tokens: int, num_prompt: int
) -> list[np.ndarray]:
    """The same as masks [kv_heads, tokens, tokens] of each layer."""
    seen = np.zeros((sum(kv_heads), num_tokens, num_tokens), np.bool_)
    for place, heads in enumerate(kept_sets(keeping, kv_heads, num_tokens, num_prompt)):
        for head, own in enumerate(heads):
            seen[head, place, own] = True
    return np.split(seen, np.cumsum(kv_heads)[:-1])
