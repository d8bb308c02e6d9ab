"""Keep the tokens that were hard to foresee."""

from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field

from treadle.core.method import Paper
from treadle.runtime.evict.base import Eviction
from treadle.runtime.evict.cached import Cached, Floats

__all__ = ["Entropy"]


class Entropy(Eviction):
    """Keep the tokens that the model itself found hardest to foresee, the same in all heads.

    Equation 2: s_t = -log p(x_t | x_<t), times `decay` for every chunk that has passed since. All
    rows of a prompt need logits for it, which costs what the head of the vocabulary costs.

    Paper: SirLLM: Streaming Infinite Retentive LLM, Yao et al., 2024.
    """

    name: ClassVar[str] = "entropy"
    paper = Paper(
        "SirLLM: Streaming Infinite Retentive LLM", 2024, "https://arxiv.org/abs/2405.12528"
    )
    reads: ClassVar[frozenset[str]] = frozenset({"surprises"})

    decay: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    """What is left of a token's worth after each chunk; 1 forgets nothing."""

    def score(self, cached: Cached) -> Floats:
        """Return what entries [kv_heads, entries] are worth."""
        assert cached.surprises is not None
        ages = (cached.num_tokens - 1 - np.arange(cached.num_tokens)) // self.chunk_tokens
        worth = cached.surprises[: cached.num_tokens] * np.power(self.decay, ages)
        found: Floats = worth[np.maximum(cached.positions, 0)].astype(np.float32)
        return found
