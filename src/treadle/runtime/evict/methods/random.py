"""Keep entries by chance, more of them in some heads than in others."""

from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field

from treadle.core.method import Control
from treadle.core.seed import numpy_stream
from treadle.runtime.evict.base import Bools, Cached, Eviction

__all__ = ["Random"]


class Random(Eviction):
    """Keep entries by chance, with budgets that differ among layers and heads.

    Head h keeps floor(budget * H * w_h / sum w) entries, drawn without regard to what they hold,
    where the weights w are drawn once from [1 - spread, 1 + spread] and H counts the heads.
    """

    name: ClassVar[str] = "random"
    paper = Control("what a policy is worth that looks at nothing")

    seed: int = 0
    """Of the draws; the same for every text."""
    spread: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.5
    """How unequal heads are: 0 gives all the same budget."""

    def keep(self, cached: Cached, budget: int) -> Bools:
        """Return which entries [kv_heads, entries] stay."""
        num_heads = len(cached.positions)
        share = 1 + self.spread * numpy_stream(self.seed, "shares").uniform(-1, 1, num_heads)
        own_budget = np.floor(budget * num_heads * share / share.sum() + 1e-9)
        draw = numpy_stream(self.seed, f"entries after {cached.num_tokens}")
        # Numbers by head and position, so that the order of the entries does not matter.
        luck = draw.random((num_heads, cached.num_tokens))
        own = np.take_along_axis(luck, np.maximum(cached.positions, 0), axis=1)
        own[cached.positions < 0] = 2
        rank = own.argsort(axis=1, kind="stable").argsort(axis=1, kind="stable")
        is_kept: Bools = (rank < own_budget[:, None]) & (cached.positions >= 0)
        return is_kept
