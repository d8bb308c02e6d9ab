"""Keep what trained heads foretell to matter: kvzap."""

from typing import ClassVar, Literal

from treadle.core.method import Paper
from treadle.runtime.evict.base import Eviction
from treadle.runtime.evict.cached import Cached, Floats

__all__ = ["Kvzap"]


class Kvzap(Eviction):
    """Keep what a small network on the state before attention foretells to matter.

    Section 3: the heads foretell the logarithm of the largest attention that an entry would get if
    its text were repeated, times how far its value moves the residual stream (KVzip+). With a
    `threshold` instead of a budget, easy texts keep less than hard ones. `treadle sparsify kvzap`
    trains the heads.

    Paper: KVzap: Fast, Adaptive, and Faithful KV Cache Pruning, Jegou and Jeblick, 2026.
    """

    name: ClassVar[str] = "kvzap"
    paper = Paper(
        "KVzap: Fast, Adaptive, and Faithful KV Cache Pruning",
        2026,
        "https://arxiv.org/abs/2601.07891",
    )
    note: ClassVar[Literal["nothing", "zero", "key_norm", "heads"]] = "heads"

    @property
    def heads(self) -> str:
        """The name of the side file that holds the heads."""
        return "kvzap"

    def score(self, cached: Cached) -> Floats:
        """Return what entries [kv_heads, entries] are worth, as their heads said."""
        return cached.scores
