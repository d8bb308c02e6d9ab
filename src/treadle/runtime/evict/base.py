"""The protocol of an eviction policy: the cache's entries go in, what each is worth comes out."""

from abc import ABC, abstractmethod
from typing import Annotated, ClassVar, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from treadle.core.method import Method
from treadle.runtime.evict.cached import Cached, Floats

__all__ = ["Eviction", "Floats"]


class Eviction(Method, ABC):
    """Says what a text's entries of the cache are worth, in each layer and KV head on its own.

    It is asked after every `chunk_tokens` tokens of the text, whether they were read or generated,
    and however the batch cut them: what a token sees follows from the text and the budget alone.
    """

    note: ClassVar[Literal["nothing", "zero", "key_norm", "heads"]] = "nothing"
    """What stands in `Cached.scores` of an entry (see `EntryNotes`)."""
    reads: ClassVar[frozenset[str]] = frozenset()
    """What else of `Cached` it looks at: queries, surprises, store."""

    chunk_tokens: Annotated[int, Field(ge=1)] = 128
    """Entries go after so many tokens of the text each time: until then the cache holds the budget
    and up to so many more."""
    local: Annotated[int, Field(ge=0)] | None = None
    """Entries go once more when all but so many tokens of the prompt are read (a question at its
    end, say); unless given, only at chunks' ends."""
    sinks: Annotated[int, Field(ge=0)] = 4
    """Tokens at the start of the text that always stay."""
    window: Annotated[int, Field(ge=0)] = 32
    """Newest tokens that always stay."""
    stabiliser_fraction: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Of the budget: so many of the newest tokens stay, too, where more of the prompt, or of the
    answer, follows right behind; at the prompt's last eviction, they do not."""
    share: Literal["head", "layer", "all"] = "head"
    """Who shares the budget: nobody (each head has its own), the heads of a layer, or all heads."""
    floor_fraction: Annotated[float, Field(ge=0.0, le=1.0)] = 0.2
    """Of the budget, what a head that shares it keeps in any case."""
    threshold: Annotated[float, Field(allow_inf_nan=False)] | None = None
    """Entries of a lower score go once they have left the window, whatever the budget is."""

    @property
    def num_counted(self) -> int:
        """Tokens at the end of a chunk whose attention is added to the scores of entries."""
        return 0

    @property
    def counts_largest(self) -> bool:
        """Whether the largest weight of attention stays there instead of the sum."""
        return False

    @property
    def heads(self) -> str:
        """The name of the trained heads that give the scores, of a policy that notes those."""
        return ""

    @property
    def packed_bits(self) -> int:
        """The bits to which older entries are packed instead of being let go; 0: they are not."""
        return 0

    def own_budgets(self, budget: int, num_heads: int) -> npt.NDArray[np.int64]:
        """Return the budget of each head where nobody shares."""
        return np.full(num_heads, budget)

    @abstractmethod
    def score(self, cached: Cached) -> Floats:
        """Return what entries [kv_heads, entries] are worth; the highest ones of a head stay."""
