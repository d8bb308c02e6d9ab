"""Keep the entries with the shortest keys."""

from typing import ClassVar, Literal

from treadle.core.method import Paper
from treadle.runtime.evict.base import Eviction
from treadle.runtime.evict.cached import Cached, Floats

__all__ = ["KeyNorm"]


class KeyNorm(Eviction):
    """Keep the entries with the shortest keys: these are found to draw most attention.

    Section 3: s_t = -||k_t||_2, for each KV head. The length is that before keys are rounded.

    Paper: A Simple and Effective L2 Norm-Based Strategy for KV Cache Compression, Devoto et al.,
    2024.
    """

    name: ClassVar[str] = "key_norm"
    paper = Paper(
        "A Simple and Effective L2 Norm-Based Strategy for KV Cache Compression",
        2024,
        "https://arxiv.org/abs/2406.11430",
    )
    note: ClassVar[Literal["nothing", "zero", "key_norm", "heads"]] = "key_norm"

    def score(self, cached: Cached) -> Floats:
        """Return what entries [kv_heads, entries] are worth: less, the longer their keys are."""
        return cached.scores
