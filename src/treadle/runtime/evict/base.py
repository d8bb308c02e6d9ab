"""The protocol of an eviction policy: what is in the cache goes in, what stays comes out."""

from abc import ABC, abstractmethod
from typing import Annotated, NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import Field

from treadle.core.method import Method

__all__ = ["Bools", "Cached", "Eviction"]

Bools = npt.NDArray[np.bool_]


class Cached(NamedTuple):
    """What a text has in the cache. Heads are the KV heads of all layers, layer after layer."""

    positions: npt.NDArray[np.int32]
    """[kv_heads, entries] where each entry's token stands in the text; -1: no entry."""
    kv_heads: tuple[int, ...]
    """Of each layer."""
    num_tokens: int
    """Tokens of the text so far; the newest stands at num_tokens - 1."""


class Eviction(Method, ABC):
    """Decides what a text keeps of its cache, in each layer and KV head on its own.

    It is asked after every `chunk_tokens` tokens of the text, whether they were read or generated,
    and however the batch cut them: what a token sees follows from the text and the budget alone.
    """

    chunk_tokens: Annotated[int, Field(ge=1)] = 128
    """Entries go after so many tokens of the text each time: until then the cache holds the budget
    and up to so many more."""

    @property
    def least_budget(self) -> int:
        """The fewest entries of a head with which the policy makes sense."""
        return 1

    @abstractmethod
    def keep(self, cached: Cached, budget: int) -> Bools:
        """Return which entries [kv_heads, entries] stay.

        Args:
            cached: What is there; more than `budget` in some head.
            budget: Entries of a head on average: at most budget * kv_heads may stay in all, shared
                out among the heads as the policy likes.
        """
