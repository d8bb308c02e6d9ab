"""Keep the first tokens and the most recent ones."""

from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field

from treadle.core.method import Paper
from treadle.runtime.evict.base import Eviction
from treadle.runtime.evict.cached import Cached, Floats

__all__ = ["Sinks"]


class Sinks(Eviction):
    """Keep the first tokens, on which attention leans when it has nowhere to go, and the newest.

    Section 3.2: the cache of every head is {0, ..., sinks - 1} and the last budget - sinks
    positions. We differ in that entries keep the positions of their tokens (the paper numbers the
    cache anew), and go in chunks: between two of them the window is up to `chunk_tokens` longer.

    Paper: Efficient Streaming Language Models with Attention Sinks, Xiao et al., 2023.
    """

    name: ClassVar[str] = "sinks"
    paper = Paper(
        "Efficient Streaming Language Models with Attention Sinks",
        2023,
        "https://arxiv.org/abs/2309.17453",
    )

    window: Annotated[int, Field(ge=0)] = 0
    """Newest tokens that always stay; the newest are what the policy keeps anyway."""

    def score(self, cached: Cached) -> Floats:
        """Return what entries [kv_heads, entries] are worth: the later, the more."""
        return cached.positions.astype(np.float32)
