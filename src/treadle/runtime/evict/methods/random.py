"""Keep entries by chance, more of them in some heads than in others."""

from typing import Annotated, ClassVar

import numpy as np
import numpy.typing as npt
from pydantic import Field

from treadle.core.method import Control
from treadle.core.seed import numpy_stream
from treadle.runtime.evict.base import Eviction
from treadle.runtime.evict.cached import Cached, Floats

__all__ = ["Random"]


class Random(Eviction):
    """Keep entries by chance, more of them in some heads than in others.

    Each entry's worth is a number drawn for its head and position after every chunk, without regard
    to what it holds. Head h keeps a + floor((budget - a) * H * w_h / sum w) entries, where a are
    its sinks and window (at least one), the weights w are drawn once from [1 - spread, 1 + spread],
    and H counts the heads.
    """

    name: ClassVar[str] = "random"
    paper = Control("what a policy is worth that looks at nothing")

    sinks: Annotated[int, Field(ge=0)] = 0
    """Tokens at the start of the text that always stay."""
    window: Annotated[int, Field(ge=0)] = 0
    """Newest tokens that always stay."""
    seed: int = 0
    """Of the draws; the same for every text."""
    spread: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.5
    """How unequal heads are: 0 gives all the same budget."""

    def own_budgets(self, budget: int, num_heads: int) -> npt.NDArray[np.int64]:
        """Return the budget of each head."""
        draw = numpy_stream(self.seed, "shares").uniform(-1, 1, num_heads)
        share = 1 + self.spread * draw
        always = min(budget, max(1, self.sinks + self.window))
        found = always + np.floor((budget - always) * num_heads * share / share.sum() + 1e-9)
        budgets: npt.NDArray[np.int64] = found.astype(np.int64)
        return budgets

    def score(self, cached: Cached) -> Floats:
        """Return what entries [kv_heads, entries] are worth: a number by chance."""
        draw = numpy_stream(self.seed, f"entries after {cached.num_tokens}")
        luck = draw.random((len(cached.positions), cached.num_tokens), np.float32)
        return np.take_along_axis(luck, np.maximum(cached.positions, 0), axis=1)
