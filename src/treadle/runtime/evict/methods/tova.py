"""Keep what the newest token attends to."""

from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field

from treadle.core.method import Paper
from treadle.runtime.evict.base import Eviction
from treadle.runtime.evict.cached import Cached, Floats

__all__ = ["Tova"]


class Tova(Eviction):
    """Drop what the newest token attends to least, the same tokens in all heads of a layer.

    Section 4: a_t = the mean over a layer's heads of the attention that the last query gives to
    entry t. The paper drops one entry a token; here so many go after each chunk, by its last token.

    Paper: Transformers are Multi-State RNNs, Oren et al., 2024.
    """

    name: ClassVar[str] = "tova"
    paper = Paper("Transformers are Multi-State RNNs", 2024, "https://arxiv.org/abs/2401.06104")
    note: ClassVar[Literal["nothing", "zero", "key_norm", "heads"]] = "zero"

    sinks: Annotated[int, Field(ge=0)] = 0
    """Tokens at the start of the text that always stay; the paper needs none."""
    window: Annotated[int, Field(ge=1)] = 1
    """Newest tokens that always stay."""

    @property
    def num_counted(self) -> int:
        """The last token is asked."""
        return 1

    def score(self, cached: Cached) -> Floats:
        """Return what entries [kv_heads, entries] are worth: their layer's mean."""
        found = []
        for positions, scores in zip(
            cached.by_layer(cached.positions), cached.by_layer(cached.scores), strict=True
        ):
            place = np.maximum(positions, 0)
            own = np.where(positions >= 0, scores, 0)
            total = np.bincount(place.ravel(), own.ravel(), cached.num_tokens)
            found.append(total[place] / len(positions))
        return np.concatenate(found).astype(np.float32)
