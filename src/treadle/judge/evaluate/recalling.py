"""Asking through one cache after another: answers, losses, and what was kept."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from treadle.core.errors import SettingsError
from treadle.core.progress import steps
from treadle.judge.evaluate.budgets import FULL, Asks, Cache, Recalled

if TYPE_CHECKING:
    from treadle.judge.evaluate.subject import Subject
    from treadle.runtime import LLM

__all__ = ["AllRecalled", "recalled"]


class AllRecalled(NamedTuple):
    """What came of all questions through each cache."""

    found: list[Recalled]
    """Of the full cache first."""
    computed_by: str
    held_bytes: int
    """Of the weights that lie in memory for one token; 0 if not known."""


def recalled(subject: "Subject", caches: list[Cache], asks: Asks) -> AllRecalled:
    """Return what came of all questions through the full cache, and through each of `caches`.

    All share the weights. One cache is in memory at a time.

    Raises:
        SettingsError: The model has too few positions, or a budget has no effect or does not end
            where the question begins.
    """
    from treadle.runtime.answering import computed_by, weight_bytes

    first = subject.runtime(keep=None, keep_budget=None)
    _require_positions(first, asks)
    for cache in caches:
        _require_effect(cache, asks)
    found = []
    with steps("recall", (1 + len(caches)) * len(asks.prompts)) as bar:
        for cache in [Cache(FULL, None, None), *caches]:
            bar.show(cache.label)
            found.append(_through(subject, first, cache, asks))
            bar.advance(len(asks.prompts))
    return AllRecalled(found, computed_by(first), weight_bytes(first))


def _require_positions(llm: "LLM", asks: Asks) -> None:
    longest = max(map(len, asks.prompts)) + asks.max_tokens
    if longest > llm.shape.max_positions:
        raise SettingsError(
            f"Texts with their questions and answers have up to {longest} tokens, and the model "
            f"has {llm.shape.max_positions} positions; lower --context-tokens by "
            f"{longest - llm.shape.max_positions}, or give a model with a longer context."
        )


def _require_effect(cache: Cache, asks: Asks) -> None:
    """Require entries to go at the end of what is kept, and not again before the answer ends."""
    chunk, policy = cache.policy.chunk_tokens, cache.policy
    if asks.num_kept % chunk:
        raise SettingsError(
            f"context_tokens = {asks.num_kept} is no multiple of the {chunk} tokens after which "
            f"'{policy.name}' lets entries go, so that none would go where the question begins; "
            f"give {max(1, asks.num_kept // chunk) * chunk}, or another chunk_tokens."
        )
    rest = max(map(len, asks.prompts)) - asks.num_kept + asks.max_tokens
    if rest >= chunk:
        raise SettingsError(
            f"What follows the text has up to {rest} tokens, and '{policy.name}' lets entries go "
            f"after every {chunk}; raise its chunk_tokens above {rest}."
        )


def _entries(cache: Cache, num_tokens: int) -> int | None:
    """Return a budget in entries of a head: a fraction counts of the text, without the question."""
    from treadle.runtime.evict.keeping import choose_keeping

    keeping = choose_keeping(cache.policy, cache.budget)
    return None if keeping is None else keeping.entries(num_tokens, num_tokens)


def _through(subject: "Subject", first: "LLM", cache: Cache, asks: Asks) -> Recalled:
    from treadle.runtime.cache.pages import page_bytes, require_dtype

    budget = _entries(cache, asks.num_kept)
    llm = subject.runtime(executor=first.executor, keep=cache.policy, keep_budget=budget)
    shape, name = llm.shape, subject.adapter_name
    texts, kept = _answered(llm, name, asks)
    rows = [prompt + answer for prompt, answer in zip(asks.prompts, asks.answers, strict=True)]
    found = llm.log_probs(rows, list(map(len, asks.prompts)), name)
    whole = page_bytes(shape.kv_heads, shape.head_dim, 1, require_dtype(llm.kv_dtype))
    return Recalled(
        cache,
        texts,
        [float(-values.astype(np.float64).mean()) for values in found],
        _by_layer(kept, shape.kv_heads),
        whole // sum(shape.kv_heads),
    )


def _answered(
    llm: "LLM", adapter: str | None, asks: Asks
) -> tuple[list[str], npt.NDArray[np.float64]]:
    """Return the answers, and the entries of each head when a question begins: a mean [heads]."""
    from treadle.runtime import SamplingParams

    params = SamplingParams(max_tokens=asks.max_tokens, temperature=0.0, stop=asks.stop)
    requests = [llm.submit(prompt, params, adapter=adapter)[0] for prompt in asks.prompts]
    kept: dict[str, npt.NDArray[np.int64]] = {}
    try:
        while not all(request.finish_reason for request in requests):
            llm.step()
            for request in requests:
                if request.entries is not None and request.num_computed == asks.num_kept:
                    kept.setdefault(request.id, request.entries.lengths.copy())
        texts = [llm.output([request]).outputs[0].text for request in requests]
    finally:
        llm.close(requests)
    everything = np.full(sum(llm.shape.kv_heads), asks.num_kept)
    return texts, np.mean(list(kept.values()) or [everything], axis=0)


def _by_layer(heads: npt.NDArray[np.float64], kv_heads: Sequence[int]) -> list[list[float]]:
    """Return values of all heads, layer by layer."""
    ends = np.cumsum(kv_heads)[:-1]
    return [layer.tolist() for layer in np.split(heads, ends)]
