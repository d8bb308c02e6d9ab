"""From scores to what stays: budgets of a head, of heads that share one, and thresholds."""

import math

import numpy as np

from treadle.core.keep import keep_counts, keep_pooled
from treadle.runtime.evict.base import Eviction
from treadle.runtime.evict.cached import Bools, Cached, Floats

__all__ = ["choose"]


def choose(
    method: Eviction, scores: Floats, cached: Cached, budget: int | None, is_last: bool
) -> Bools:
    """Return which entries [kv_heads, entries] stay.

    Args:
        method: The policy.
        scores: What it says that they are worth.
        cached: What is there.
        budget: Entries of a head on average; None: as many as reach the threshold.
        is_last: Whether this is the prompt's last eviction.
    """
    exists = cached.positions >= 0
    always = exists & _stays_always(method, cached, budget, is_last)
    allowed = exists
    if method.threshold is not None:
        allowed = always | (exists & (scores >= method.threshold))
    if budget is None or allowed.sum(axis=1).max(initial=0) <= budget:
        return allowed
    ranked = np.where(always, np.inf, np.where(allowed, scores, -np.inf)).astype(np.float32)
    kept = _kept(method, cached, ranked, budget)
    return kept & allowed


def _stays_always(method: Eviction, cached: Cached, budget: int | None, is_last: bool) -> Bools:
    newest = method.window
    if budget is not None and not is_last:
        stabilisers = math.floor(method.stabiliser_fraction * budget)
        newest = max(newest, min(stabilisers, budget - method.sinks - 1))
    found: Bools = (cached.positions < method.sinks) | (
        cached.positions >= cached.num_tokens - newest
    )
    return found


def _kept(method: Eviction, cached: Cached, ranked: Floats, budget: int) -> Bools:
    num_heads = len(ranked)
    if method.share == "head":
        return keep_counts(ranked, method.own_budgets(budget, num_heads))
    floor = math.floor(method.floor_fraction * budget)
    groups = [ranked] if method.share == "all" else cached.by_layer(ranked)
    kept = [keep_pooled(group, budget * len(group), floor) for group in groups]
    return np.concatenate(kept)
