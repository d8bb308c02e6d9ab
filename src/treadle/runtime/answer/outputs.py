"""What comes back: answers, pieces of answers, and how busy the engine is."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate

from treadle.runtime.request import Request, TokenLogprobs
from treadle.runtime.schedule.batch import Batch
from treadle.runtime.sharing.account import SlotsRead

__all__ = [
    "CompletionOutput",
    "Delta",
    "DraftCounts",
    "LoadReport",
    "RequestOutput",
    "load_report",
]


@dataclass(frozen=True)
class CompletionOutput:
    """One answer."""

    index: int
    text: str
    """Empty where the model has no tokenizer."""
    token_ids: list[int]
    finish_reason: str | None
    """stop, length, cancelled, deadline or migrated."""
    stop_reason: int | str | None
    """The stop token or string that ended it."""
    logprobs: list[TokenLogprobs] | None
    num_cached_tokens: int
    """Tokens of the prompt that were found in the cache."""
    num_preemptions: int
    num_drafted_tokens: int = 0
    """Tokens that ran as drafts (see `LLM(speculate=...)`)."""
    num_accepted_tokens: int = 0
    """Of these, tokens of the answer."""
    num_kept: list[list[int]] | None = None
    """Entries of each layer and KV head when it ended, where heads keep their own (see
    `LLM(keep=...)`)."""

    @property
    def cumulative_logprob(self) -> float | None:
        """The log of the answer's probability, where logprobs were asked for."""
        if self.logprobs is None:
            return None
        return sum(entry[token] for token, entry in zip(self.token_ids, self.logprobs, strict=True))


@dataclass(frozen=True)
class RequestOutput:
    """The answers to one prompt."""

    request_id: str
    prompt: str | None
    prompt_token_ids: list[int]
    outputs: list[CompletionOutput]
    prompt_logprobs: list[TokenLogprobs | None] | None
    """One entry a token, None before `prompt_logprobs_start`; the first has nothing before it."""

    @property
    def finished(self) -> bool:
        """Whether all answers have ended (the name is vLLM's)."""
        return all(answer.finish_reason is not None for answer in self.outputs)


@dataclass(frozen=True)
class Delta:
    """What is new of an answer that is being streamed."""

    request_id: str
    index: int
    text: str
    token_ids: list[int]
    logprobs: list[TokenLogprobs] | None
    finish_reason: str | None
    stop_reason: int | str | None
    text_offsets: list[int] = field(default_factory=list)
    """For each token the place in the answer of the character that it begins or goes on; empty
    where the model has no tokenizer."""


@dataclass
class DraftCounts:
    """What drafts brought since the start."""

    num_drafted: int = 0
    """Drafts that ran."""
    num_accepted: int = 0
    """Of these, drafts that were chosen."""
    num_passes: int = 0
    """Passes of a request through the model that chose tokens."""
    num_tokens: int = 0
    """Tokens that these chose."""

    @property
    def tokens_per_pass(self) -> float:
        """Tokens for each pass: 1 without drafts, and before the first pass."""
        return self.num_tokens / self.num_passes if self.num_passes else 1.0

    def add(self, num_drafted: int, num_accepted: int, num_tokens: int) -> None:
        """Count a pass."""
        self.num_drafted += num_drafted
        self.num_accepted += num_accepted
        self.num_passes += 1
        self.num_tokens += num_tokens


@dataclass(frozen=True)
class LoadReport:
    """How busy an engine is: what a dispatcher or an autoscaler reads."""

    num_waiting: int
    num_running: int
    num_paused: int
    """Paused, or branches whose next token is not chosen yet."""
    num_waiting_tokens: int
    """Tokens that waiting requests have yet to run."""
    num_pages: int
    num_free_pages: int
    num_cached_pages: int
    """Held by the prefix tree alone: free on demand."""
    page_size: int
    num_preemptions: int
    num_rows: int
    """Rows computed since the start."""
    drafted: DraftCounts
    kv_read_bytes: int
    """Of keys and values that attention has read since the start, windows counted in full; 0
    through transformers."""
    kv_path_bytes: int
    """What it would have read if no texts had shared pages."""
    peak_cache_bytes: int
    """Of pages that were held at once, at most, with positions and scales."""
    peak_kept_bytes: int
    """The same of the planes that heads held which keep their own entries, with their scores."""


def load_report(
    batch: Batch, num_rows: int, drafted: DraftCounts, tokens_read: SlotsRead
) -> LoadReport:
    """Return how busy a batch is whose engine has computed so many rows."""
    pool = batch.pool
    return LoadReport(
        len(batch.waiting),
        len(batch.running),
        len(batch.paused) + len(batch.held),
        sum(request.num_remaining for request in batch.waiting.values()),
        pool.num_pages,
        pool.num_free,
        batch.tree.num_evictable,
        pool.page_size,
        batch.num_preemptions,
        num_rows,
        drafted,
        tokens_read.read * pool.store.token_bytes,
        tokens_read.by_path * pool.store.token_bytes,
        pool.most_held * (pool.store.num_bytes // pool.num_pages),
        batch.holdings.planes.most_held * pool.store.plane_bytes,
    )


def completion(
    request: Request, index: int, text: str, kv_heads: Sequence[int] = ()
) -> CompletionOutput:
    """Return what `request` has become."""
    return CompletionOutput(
        index,
        text,
        request.outputs,
        request.finish_reason,
        request.stop_reason,
        None if request.params.logprobs is None else list(request.logprobs),
        min(request.num_cached, request.num_prompt),
        request.num_preemptions,
        request.num_drafted,
        request.num_accepted,
        None if request.kept is None else _by_layer(request.kept, kv_heads),
    )


def _by_layer(counts: Sequence[int], kv_heads: Sequence[int]) -> list[list[int]]:
    ends = list(accumulate(kv_heads))
    return [list(counts[end - heads : end]) for end, heads in zip(ends, kv_heads, strict=True)]
