"""Asking through one cache after another: answers, losses, and what was kept."""

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from treadle.core.errors import SettingsError
from treadle.core.progress import Progress, steps
from treadle.judge.evaluate.budgets import FULL, Asks, Cache, Recalled
from treadle.judge.evaluate.foreseen import measure_oracle

if TYPE_CHECKING:
    from treadle.judge.evaluate.subject import Subject
    from treadle.runtime import LLM, SamplingParams
    from treadle.runtime.cache.entries import HeadEntries

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

    Raises:
        SettingsError: The model has too few positions, or entries would go at other places than
            where the question begins.
    """
    for cache in caches:
        _require_place(cache, asks)
    first = subject.runtime(keep=None, keep_budget=None)
    _require_positions(first, asks)
    with TemporaryDirectory() as room:
        caches = [_told(cache, first.executor, asks, Path(room)) for cache in caches]
        return _recalled(subject, first, caches, asks)


def _told(cache: Cache, executor: Any, asks: Asks, room: Path) -> Cache:  # Any: an executor
    """Return a cache whose oracle knows the answers, unless it was told of them."""
    if cache.policy.name != "oracle" or cache.policy.path is not None:
        return cache
    file = room / "oracle.safetensors"
    if not file.exists():
        measure_oracle(executor, asks, file)
    return cache._replace(policy=cache.policy.model_copy(update={"path": file}))


def _recalled(subject: "Subject", first: "LLM", caches: list[Cache], asks: Asks) -> AllRecalled:
    """Ask through each of the caches."""
    from treadle.runtime.answering import computed_by, weight_bytes

    found = []
    with steps("recall", (1 + len(caches)) * len(asks.prompts)) as bar:
        for cache in [Cache(FULL, None, None), *caches]:
            bar.show(cache.label)
            # Of its own engine, whose peak is then this cache's.
            llm = subject.runtime(executor=first.executor, keep=None, keep_budget=None)
            found.append(_through(_Asking(llm, subject.adapter_name, cache, asks, bar)))
    return AllRecalled(found, computed_by(first), weight_bytes(first))


def _require_positions(llm: "LLM", asks: Asks) -> None:
    longest = max(map(len, asks.prompts)) + asks.max_tokens
    if longest > llm.shape.max_positions:
        raise SettingsError(
            f"Texts with their questions and answers have up to {longest} tokens, and the model "
            f"has {llm.shape.max_positions} positions; lower --context-tokens by "
            f"{longest - llm.shape.max_positions}, or give a model with a longer context."
        )


def _require_place(cache: Cache, asks: Asks) -> None:
    """Require entries to go where what is kept ends, and not again before the answer ends."""
    policy, name = cache.policy, cache.name
    if policy.local is not None:
        raise SettingsError(
            f"local = {policy.local} of '{name}' has no effect: recall sets it to the tokens that "
            f"follow what loses entries; leave it out."
        )
    chunk, rest = policy.chunk_tokens, max(map(len, asks.prompts)) - asks.num_kept + asks.max_tokens
    if asks.num_kept % chunk + rest >= chunk:
        raise SettingsError(
            f"'{name}' lets entries go after every {chunk} tokens, and would do so while the "
            f"question or the answer is read: up to {rest} tokens follow the {asks.num_kept} of "
            f"the text. Let context_tokens be a multiple of a chunk_tokens above {rest}."
        )


def _params(cache: Cache, asks: Asks, num_prompt: int) -> "SamplingParams":
    """Return how a prompt is answered whose first `num_kept` tokens lose entries by themselves.

    A fraction is one of these, whatever follows them.
    """
    from treadle.runtime import SamplingParams
    from treadle.runtime.evict.keeping import choose_keeping

    policy, budget = cache.policy, cache.budget
    if policy is not None and not policy.packed_bits:
        policy = policy.model_copy(update={"local": num_prompt - asks.num_kept})
    if isinstance(budget, float):
        keeping = choose_keeping(policy, budget)
        assert keeping is not None, "a budget has a policy"
        budget = keeping.entries(asks.num_kept, asks.num_kept)
    return SamplingParams(
        max_tokens=asks.max_tokens,
        temperature=0.0,
        stop=asks.stop,
        keep=policy,
        keep_budget=budget,
    )


class _Asking(NamedTuple):
    """One cache, and what is asked through it."""

    llm: "LLM"
    adapter: str | None
    cache: Cache
    asks: Asks
    bar: Progress


def _through(asking: _Asking) -> Recalled:
    answers = _answered(asking)
    return Recalled(
        asking.cache,
        answers.texts,
        _losses(asking),
        _by_layer(answers.kept, asking.llm.shape.kv_heads),
        answers.kept_bytes,
        answers.peak_bytes,
    )


class _Answers(NamedTuple):
    texts: list[str]
    kept: npt.NDArray[np.float64]
    """[heads] entries when a question begins, a mean."""
    kept_bytes: float
    """Of these, as they are stored."""
    peak_bytes: int
    """Of the cache while the first prompt was read and answered by itself."""


def _answered(asking: _Asking) -> _Answers:
    """Answer the first question alone, and all others in one batch."""
    from treadle.runtime.cache.forms import page_bytes, require_dtype

    llm, asks = asking.llm, asking.asks
    kept: list[_Kept] = []
    texts = _batch_answered(asking, asks.prompts[:1], kept)
    report = llm.load_report()
    is_full = asking.cache.policy is None
    peak = report.peak_cache_bytes if is_full else report.peak_kept_bytes
    texts += _batch_answered(asking, asks.prompts[1:], kept)
    everything = np.full(sum(llm.shape.kv_heads), asks.num_kept)
    kept = kept or [_Kept(everything, everything)]
    heads = llm.shape.kv_heads
    one = page_bytes(heads, llm.shape.head_dim, 1, require_dtype(llm.kv_dtype)) // sum(heads)
    slots = float(np.mean([own.slots.sum() for own in kept]))
    return _Answers(texts, np.mean([own.entries for own in kept], axis=0), slots * one, peak)


class _Kept(NamedTuple):
    entries: npt.NDArray[np.int64]
    """[heads]"""
    slots: npt.NDArray[np.int64]
    """[heads] that they fill: packed ones share them."""


def _kept_of(entries: "HeadEntries", llm: "LLM") -> _Kept:
    page_size = llm.cache_tokens // llm.load_report().num_pages
    wide = entries.lengths - entries.num_packed
    return _Kept(entries.lengths.copy(), wide + entries.unit_planes * page_size)


def _batch_answered(asking: _Asking, prompts: list[list[int]], kept: list[_Kept]) -> list[str]:
    """Return the answers, and add to `kept` the entries of each head when a question begins."""
    llm, adapter, cache, asks, bar = asking
    requests = [
        llm.submit(prompt, _params(cache, asks, len(prompt)), adapter=adapter)[0]
        for prompt in prompts
    ]
    seen: dict[str, _Kept] = {}
    num_done = 0
    try:
        while num_done < len(requests):
            llm.step()
            before, num_done = num_done, sum(bool(one.finish_reason) for one in requests)
            bar.advance(num_done - before)
            for request in requests:
                if request.entries is not None and request.num_computed == asks.num_kept:
                    seen.setdefault(request.id, _kept_of(request.entries, llm))
        kept += seen.values()
        return [llm.output([request]).outputs[0].text for request in requests]
    finally:
        llm.close(requests)


def _losses(asking: _Asking) -> list[float]:
    """Return the mean loss of each right answer, in nats; of as many tokens all at once."""
    llm, adapter, cache, asks, _ = asking
    rows = [prompt + answer for prompt, answer in zip(asks.prompts, asks.answers, strict=True)]
    places: dict[int, list[int]] = {}
    for place, row in enumerate(rows):
        places.setdefault(len(row), []).append(place)
    losses = [0.0] * len(rows)
    for length, own in places.items():
        params = _params(cache, asks, length - 1)  # the last token is only predicted
        firsts = [len(asks.prompts[place]) for place in own]
        found = llm.log_probs([rows[place] for place in own], firsts, adapter, params)
        for place, values in zip(own, found, strict=True):
            losses[place] = float(-values.astype(np.float64).mean())
    return losses


def _by_layer(heads: npt.NDArray[np.float64], kv_heads: Sequence[int]) -> list[list[float]]:
    """Return values of all heads, layer by layer."""
    ends = np.cumsum(kv_heads)[:-1]
    return [layer.tolist() for layer in np.split(heads, ends)]
