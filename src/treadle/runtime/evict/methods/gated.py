"""Keep what trained heads foretell to matter: gated."""

from typing import ClassVar, Literal

from treadle.core.method import Paper
from treadle.runtime.evict.base import Eviction
from treadle.runtime.evict.cached import Cached, Floats

__all__ = ["Gated"]


class Gated(Eviction):
    """Keep what gates foretell to matter that compare a token's query with its own key.

    For each query head, q and k are small projections of the state before attention, z = q.k / 4 +
    b, and the worth of an entry is the mean over a KV head's query heads of
    1 / (1 + sum over s of exp(q.sink_s - z)). Budgets are shared by all heads. `treadle sparsify
    gated` trains the gates.

    Paper: Fast KVzip: Efficient and Accurate LLM Inference with Gated KV Eviction, Kim et al.,
    2026.
    """

    name: ClassVar[str] = "gated"
    paper = Paper(
        "Fast KVzip: Efficient and Accurate LLM Inference with Gated KV Eviction",
        2026,
        "https://arxiv.org/abs/2601.17668",
    )
    note: ClassVar[Literal["nothing", "zero", "key_norm", "heads"]] = "heads"

    share: Literal["head", "layer", "all"] = "all"
    """Who shares the budget: nobody (each head has its own), the heads of a layer, or all heads."""

    @property
    def heads(self) -> str:
        """The name of the side file that holds the heads."""
        return "gated"

    def score(self, cached: Cached) -> Floats:
        """Return what entries [kv_heads, entries] are worth, as their heads said."""
        return cached.scores
