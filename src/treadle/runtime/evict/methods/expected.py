"""Keep what later queries are expected to attend to."""

from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field

from treadle.core.method import Paper
from treadle.runtime.evict.base import Eviction
from treadle.runtime.evict.cached import Cached, Floats, Ints, StoredEntries, Turns

__all__ = ["Expected"]


class Expected(Eviction):
    """Keep what later queries would attend to if they were drawn like those so far.

    Queries of a head, not turned, are taken as normal with the mean mu and covariance S of those
    behind the sinks. With R the rotation averaged over the next `future_tokens` positions, entry t
    is worth, by equations 4 to 6, softmax_t(k R mu / sqrt(d) + k' R S R' k / (2 d)), averaged over
    a KV head's query heads, plus `epsilon`, times ||v_t||_2. The paper knows the whole prompt; here
    what was read so far counts.

    Paper: Expected Attention: KV Cache Compression by Estimating Attention from Future Queries
    Distribution, Devoto et al., 2025.
    """

    name: ClassVar[str] = "expected"
    paper = Paper(
        "Expected Attention: KV Cache Compression by Estimating Attention from Future Queries "
        "Distribution",
        2025,
        "https://arxiv.org/abs/2510.00636",
    )
    reads: ClassVar[frozenset[str]] = frozenset({"queries", "layers"})

    future_tokens: Annotated[int, Field(ge=1)] = 512
    """Positions that queries are expected at."""
    epsilon: Annotated[float, Field(ge=0.0)] = 0.02
    """What an entry is worth that nobody attends to, before its value's length counts."""
    covariance: bool = True
    """Whether the spread of queries counts beside their mean."""
    values: Literal["length", "ignored"] = "length"
    """Whether the length of an entry's value counts."""

    def score(self, cached: Cached) -> Floats:
        """Return what entries [kv_heads, entries] are worth."""
        assert cached.queries is not None
        assert cached.layers is not None
        assert cached.turns is not None
        ahead = np.arange(cached.num_tokens, cached.num_tokens + self.future_tokens)
        found, first = [], 0
        group = len(cached.queries) // len(cached.positions)
        for layer, turns, positions in zip(
            cached.layers,
            cached.turns(ahead.astype(np.int32)),
            cached.by_layer(cached.positions),
            strict=True,
        ):
            last = first + len(positions) * group
            sums = cached.queries[first:last].reshape(len(positions), group, -1)
            laws = _laws(sums / np.float32(max(1, cached.num_queries)), turns)
            found.append(self._layer(layer, positions, *laws))
            first = last
        return np.concatenate(found)

    def _layer(
        self, entries: StoredEntries, positions: Ints, mean: Floats, spread: Floats
    ) -> Floats:
        """Return the worth [kv_heads, entries] in a layer.

        Args:
            entries: Of the layer.
            positions: [kv_heads, entries]
            mean: [kv_heads, group, dim] of later queries.
            spread: [kv_heads, group, dim, dim] their covariance.
        """
        keys, dim = entries.keys, entries.keys.shape[-1]
        logits = mean @ keys.transpose(0, 2, 1) / np.sqrt(dim)
        if self.covariance:
            wide = keys[:, None] @ spread
            logits = logits + (wide * keys[:, None]).sum(-1) / (2 * dim)
        is_asked = (positions >= self.sinks)[:, None]
        logits = np.where(is_asked, logits, -np.inf)
        highest = logits.max(-1, keepdims=True, initial=np.finfo(np.float32).min)
        weights = np.exp(logits - highest)
        shares = weights / np.maximum(weights.sum(-1, keepdims=True), 1e-30)
        worth = shares.mean(axis=1) + self.epsilon
        if self.values == "length":
            worth = worth * np.linalg.norm(entries.values, axis=-1)
        found: Floats = worth.astype(np.float32)
        return found


def _laws(moments: Floats, turns: Turns) -> tuple[Floats, Floats]:
    """Return mean [..., dim] and covariance [..., dim, dim] of later queries, turned.

    Args:
        moments: [kv_heads, group, dim + dim * dim] means of queries and of their products.
        turns: Of the layer at later positions.
    """
    half = turns[0].shape[1]
    dim = 2 * half
    mean = moments[..., :dim]
    spread = moments[..., dim:].reshape(*mean.shape, dim) - mean[..., :, None] * mean[..., None, :]
    cosine, sine = (np.diag(part.mean(axis=0)) for part in turns)
    rotation = np.block([[cosine, -sine], [sine, cosine]]).astype(np.float32)
    return mean @ rotation.T, rotation @ spread @ rotation.T
