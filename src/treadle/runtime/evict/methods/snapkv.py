"""Keep what the newest tokens attend to."""

from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field

from treadle.core.method import Paper
from treadle.runtime.evict.base import Eviction
from treadle.runtime.evict.cached import Cached, Floats

__all__ = ["SnapKV"]


class SnapKV(Eviction):
    """Keep what the newest tokens attend to, with its neighbours.

    Equations 3 to 6: the attention that the last `window` queries give to each earlier entry,
    summed over them and a KV head's query heads, averaged over `kernel` neighbours. The paper asks
    the queries at the prompt's end once; here those at the end of every chunk are asked, because
    the prompt's end is not known while its start is evicted.

    With aggregate = defensive the largest attention counts instead of the sum, and nothing is worth
    less than the mean of its head (DefensiveKV, Feng et al., 2025, algorithm 1).

    Paper: SnapKV: LLM Knows What You are Looking for Before Generation, Li et al., 2024.
    """

    name: ClassVar[str] = "snapkv"
    paper = Paper(
        "SnapKV: LLM Knows What You are Looking for Before Generation",
        2024,
        "https://arxiv.org/abs/2404.14469",
    )
    note: ClassVar[Literal["nothing", "zero", "key_norm", "heads"]] = "zero"

    window: Annotated[int, Field(ge=1)] = 32
    """Newest tokens that always stay, and are asked as far as they came since entries went last."""
    kernel: Annotated[int, Field(ge=1)] = 5
    """Neighbours over which scores are averaged, an entry itself among them."""
    aggregate: Literal["sum", "defensive"] = "sum"
    """How the attention of several queries counts together."""

    @property
    def num_counted(self) -> int:
        """The window's tokens are asked."""
        return self.window

    @property
    def counts_largest(self) -> bool:
        """Whether the largest weight of attention counts instead of the sum."""
        return self.aggregate == "defensive"

    def score(self, cached: Cached) -> Floats:
        """Return what entries [kv_heads, entries] are worth."""
        positions = cached.positions
        is_earlier = (positions >= 0) & (positions < cached.num_tokens - self.window)
        found = _averaged(np.where(is_earlier, cached.scores, 0), self.kernel)
        if self.aggregate == "defensive":
            count = np.maximum(is_earlier.sum(axis=1), 1)
            mean = (found * is_earlier).sum(axis=1) / count
            found = np.maximum(found, mean[:, None])
        return found.astype(np.float32)


def _averaged(scores: Floats, kernel: int) -> Floats:
    """Return means over neighbours [kv_heads, entries]; what lies beyond the ends counts as 0."""
    before = (kernel - 1) // 2
    wide = np.pad(scores, ((0, 0), (before, kernel - 1 - before)))
    total = np.zeros_like(scores)
    for first in range(kernel):
        total += wide[:, first : first + scores.shape[1]]
    return total / np.float32(kernel)
