"""Keep every entry, the older ones in 4 or 2 bits."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from treadle.core.method import Paper
from treadle.runtime.cache.units import GROUP
from treadle.runtime.evict.base import Eviction
from treadle.runtime.evict.cached import Cached, Floats

__all__ = ["Kivi"]


class Kivi(Eviction):
    """Keep every entry: the newest as the cache stores them, the older ones in 4 or 2 bits.

    Section 3.3 and algorithm 1: keys are rounded for each dimension and group of tokens, values for
    each token and group of dimensions, both with a scale and a minimum (a group has 32 numbers, so
    that they add one bit to each). The newest `window` tokens stay as they are, and here so do the
    `sinks`. Tokens are packed 256 at a time, when so many have left the window at a chunk's end.

    No budget belongs to it, nothing is let go: it is what eviction has to be compared with.

    Paper: KIVI: A Tuning-Free Asymmetric 2bit Quantization for KV Cache, Liu et al., 2024.
    """

    name: ClassVar[str] = "kivi"
    paper = Paper(
        "KIVI: A Tuning-Free Asymmetric 2bit Quantization for KV Cache",
        2024,
        "https://arxiv.org/abs/2402.02750",
    )

    bits: Literal[4, 2] = 4
    """Of the numbers of older entries."""
    window: Annotated[int, Field(ge=GROUP)] = 128
    """Newest tokens that are not packed."""
    sinks: Annotated[int, Field(ge=0, le=256)] = 4
    """Tokens at the start of the text that are not packed."""
    local: None = None
    """Nothing goes at the end of a prompt."""
    stabiliser_fraction: Annotated[float, Field(ge=0.0, le=0.0)] = 0.0
    """Without a budget there are none."""
    share: Literal["head"] = "head"
    """Heads share no budget."""
    threshold: None = None
    """No entry goes."""

    @property
    def packed_bits(self) -> int:
        """Older entries are packed to so many bits."""
        return self.bits

    def score(self, cached: Cached) -> Floats:
        """Return the same for all entries [kv_heads, entries]: none is let go."""
        return cached.positions.astype("float32") * 0
