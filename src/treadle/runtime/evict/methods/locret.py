"""Keep what trained heads foretell to matter: locret."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from treadle.core.method import Paper
from treadle.runtime.evict.base import Eviction
from treadle.runtime.evict.cached import Cached, Floats

__all__ = ["Locret"]


class Locret(Eviction):
    """Keep what trained heads foretell to matter: one small network a layer, on the frozen model.

    Section 3.2: s_t = W2 act(W1 [q_t; k_t; v_t]), one score for each KV head, from the token's own
    numbers alone: known when it enters the cache, and never computed again. `treadle sparsify
    locret` trains the heads. While the prompt is read, the newest tokens stay whatever their scores
    are (the stabilisers of section 3.3). We differ in that entries keep their positions.

    Paper: Locret: Enhancing Eviction in Long-Context LLM Inference with Trained Retaining Heads on
    Consumer-Grade Devices, Huang et al., 2024.
    """

    name: ClassVar[str] = "locret"
    paper = Paper(
        "Locret: Enhancing Eviction in Long-Context LLM Inference with Trained Retaining Heads on "
        "Consumer-Grade Devices",
        2024,
        "https://arxiv.org/abs/2410.01805",
    )
    note: ClassVar[Literal["nothing", "zero", "key_norm", "heads"]] = "heads"

    stabiliser_fraction: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.4
    """Of the budget: so many of the newest tokens stay, too, where more of the prompt, or of the
    answer, follows right behind; at the prompt's last eviction, they do not."""

    @property
    def heads(self) -> str:
        """The name of the side file that holds the heads."""
        return "locret"

    def score(self, cached: Cached) -> Floats:
        """Return what entries [kv_heads, entries] are worth, as their heads said."""
        return cached.scores
