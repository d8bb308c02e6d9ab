"""What a policy sees of a text's entries."""

import hashlib
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

__all__ = ["Bools", "Cached", "Floats", "Ints", "StoredEntries", "Turns", "prompt_key"]

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int32]

Number = TypeVar("Number", np.float32, np.int32)
Turns = tuple[Floats, Floats]
"""Cosines and sines [positions, dim / 2] of a rotary embedding."""


def prompt_key(tokens: Sequence[int]) -> str:
    """Return the name by which an oracle knows a prompt: the number and the hash of its tokens."""
    return f"{len(tokens)}-{hashlib.sha256(np.asarray(tokens, np.int64).tobytes()).hexdigest()}"


class StoredEntries(NamedTuple):
    """A layer's entries, as the cache stores them."""

    keys: Floats
    """[kv_heads, entries, dim], turned."""
    values: Floats
    """[kv_heads, entries, dim]"""


class Cached(NamedTuple):
    """What a text has in the cache. Heads are the KV heads of all layers, layer after layer.

    Entries of a head stand in the order of their positions; those that are none come last.
    """

    positions: Ints
    """[kv_heads, entries] where each entry's token stands in the text; -1: no entry."""
    kv_heads: tuple[int, ...]
    """Of each layer."""
    num_tokens: int
    """Tokens of the text so far; the newest stands at num_tokens - 1."""
    num_prompt: int
    """Tokens of its prompt."""
    scores: Floats
    """[kv_heads, entries] what was noted of them; see `Eviction.note`."""
    tokens: Sequence[int] = ()
    """The text; the prompt is there as a whole."""
    surprises: Floats | None = None
    """[tokens] how improbable each token was, in nats."""
    queries: Floats | None = None
    """[heads of all layers, dim + dim * dim] sums of queries, not turned, and of q q'."""
    num_queries: int = 0
    """Tokens that were added up there."""
    layers: Sequence[StoredEntries] | None = None
    """Of each layer, read when it is looked at."""
    turns: Callable[[Ints], Sequence[Turns]] | None = None
    """Returns each layer's rotation at given positions."""

    def by_layer(self, numbers: npt.NDArray[Number]) -> list[npt.NDArray[Number]]:
        """Return [kv_heads, ...] cut into the layers' parts."""
        return np.split(numbers, np.cumsum(self.kv_heads)[:-1])
