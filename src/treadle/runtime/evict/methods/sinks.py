"""Keep the first tokens and the most recent ones."""

from typing import Annotated, ClassVar

from pydantic import Field

from treadle.core.method import Paper
from treadle.runtime.evict.base import Bools, Cached, Eviction

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

    sinks: Annotated[int, Field(ge=0)] = 4
    """Tokens at the start of the text that always stay; 0 leaves a sliding window."""

    @property
    def least_budget(self) -> int:
        """The fewest entries of a head: the sinks and one of the window."""
        return self.sinks + 1

    def keep(self, cached: Cached, budget: int) -> Bools:
        """Return which entries [kv_heads, entries] stay."""
        first_recent = cached.num_tokens - (budget - self.sinks)
        is_sink = (cached.positions >= 0) & (cached.positions < self.sinks)
        is_kept: Bools = is_sink | (cached.positions >= max(first_recent, 0))
        return is_kept
