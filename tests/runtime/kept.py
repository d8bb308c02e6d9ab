"""What a text sees under an eviction policy, in plain loops over lists; not a test itself."""

from collections.abc import Sequence

import numpy as np

from treadle.runtime.evict.base import Cached
from treadle.runtime.evict.keeping import Keeping


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
        if count % keeping.method.chunk_tokens == 0 and max(map(len, held)) > budget:
            wide = np.full((len(held), max(map(len, held))), -1, np.int32)
            for row, own in zip(wide, held, strict=True):
                row[: len(own)] = own
            chosen = keeping.method.keep(Cached(wide, tuple(kv_heads), count), budget)
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
