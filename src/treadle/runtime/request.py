"""What is asked of a model, and how far each request has come."""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import Any

from treadle.core.errors import DataError
from treadle.model.rope import RopeLengths
from treadle.runtime.asked.params import SamplingParams
from treadle.runtime.cache.entries import HeadEntries
from treadle.runtime.evict.keeping import Keeping

__all__ = ["Request", "RequestError", "RequestState", "SamplingParams", "TokenLogprobs"]

TokenLogprobs = dict[int, float]
"""Token -> natural log of its probability: the chosen token and the asked number of best ones."""


class RequestState(StrEnum):
    """Where a request stands."""

    WAITING = "waiting"
    PREFILL = "prefill"
    RUNNING = "running"
    PREEMPTED = "preempted"
    HELD = "held"
    """A branch whose next token nobody has chosen yet."""
    MIGRATING = "migrating"
    """Paused, or imported and not committed yet."""
    FINISHED = "finished"


@dataclass(eq=False)
class Request:
    """One text in the making. `to_dict` and `from_dict` carry all of it but the pages' content."""

    id: str
    tokens: list[int]
    """The prompt and all that was added to it."""
    num_prompt: int
    params: SamplingParams
    key: int
    """Of its stream of random numbers."""
    client: str = ""
    priority: int = 0
    """Lower comes first, as in vLLM."""
    salt: str = ""
    """Only requests of one salt share cached pages."""
    adapter: str | None = None
    """Name of the LoRA adapter that answers it."""
    adapter_hash: str = ""
    """Of that adapter's content: requests of different adapters never share cached pages."""
    heads_hash: str = ""
    """Of the trained heads by which its policy keeps entries."""
    arrival: float = 0.0
    number: int = 0
    """Order of arrival in this engine."""
    deadline: float | None = None
    """On the engine's clock."""
    parent: str | None = None
    """The request whose prompt this one shares (n > 1)."""
    state: RequestState = RequestState.WAITING
    finish_reason: str | None = None
    """stop, length, cancelled, deadline, migrated, or pruned (a branch)."""
    stop_reason: int | str | None = None
    """The stop token or string that was met."""
    num_computed: int = 0
    """Tokens that went through the model; their entries are cached but for those dropped since."""
    num_cached: int = 0
    """Of these, tokens that were found in the cache when it was admitted last."""
    num_preemptions: int = 0
    first_token: float | None = None
    """When its first new token came, on the engine's clock."""
    num_shown: int = 0
    """Characters of its text that were streamed."""
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    prompt_logprobs: list[TokenLogprobs] = field(default_factory=list)
    """Of the prompt's tokens from `prompt_logprobs_start` on."""
    longest: int = 0
    """Tokens that it may grow to."""
    keep: Keeping | None = None
    """What its heads keep of the cache; None: all of them everything."""
    rope_bounds: tuple[int, ...] = ()
    """Of the model: where a text grows beyond one of these lengths, all its positions turn by other
    factors, and what was computed of it is computed again."""
    rope_dynamic_from: int | None = None
    """Of the model: a prompt of more tokens turns by factors of its length, for good."""
    drafts: list[int] = field(default_factory=list)
    """Tokens that may follow: they run beside, and those that are not chosen are rolled back."""
    draft_parents: list[int] = field(default_factory=list)
    """Where they are a tree, the place of the draft before each, -1 for the text's last token; each
    stands behind its parent. Empty: each follows the one before it."""
    num_drafted: int = 0
    """Drafts that ran."""
    num_accepted: int = 0
    """Of these, drafts that were chosen."""
    pages: list[int] = field(default_factory=list)
    entries: HeadEntries | None = None
    """What it holds in the cache instead of pages where `keep` is set."""
    kept: list[int] | None = None
    """Entries of each KV head of all layers when it held some last, where `keep` is set."""
    surprises: list[float] = field(default_factory=lambda: [0.0])
    """How improbable its tokens were, in nats, as far as its policy asked for that."""

    @property
    def reads_surprises(self) -> bool:
        """Whether its policy asks how improbable its tokens are."""
        return self.keep is not None and "surprises" in self.keep.method.reads

    @property
    def num_slots(self) -> int:
        """The slots that it has in the cache, of the head that has most."""
        return self.num_computed if self.entries is None else self.entries.longest

    @property
    def holds_cache(self) -> bool:
        """Whether it holds pages, or planes."""
        return bool(self.pages) or (self.entries is not None and self.entries.num_planes > 0)

    @property
    def num_ready(self) -> int:
        """The number of rows that may run in one step: tokens, then drafts."""
        ready = self.num_remaining + min(len(self.drafts), self.most_drafts)
        if self.keep is None:
            return ready
        return min(ready, self.keep.rows_left(self.num_computed, self.num_prompt))

    @property
    def most_drafts(self) -> int:
        """The number of drafts that may run behind its tokens, in one step with them."""
        # The last token is chosen but never run; rows of one step turn by the same factors.
        most = min([self.longest - 1, *self.rope_bounds[self.regime :]]) - len(self.tokens)
        if self.draft_parents and self.keep is not None:
            return 0  # entries of heads are rolled back, but not moved
        if self.keep is not None:
            left = self.keep.drafts_left(self.num_computed, self.num_prompt)
            most = min(most, left - self.num_remaining)
        return max(0, most)

    @property
    def regime(self) -> int:
        """The regime (see `model.rope`) of its text, or of its prompt where factors are dynamic."""
        return self.regime_at(len(self.tokens))

    def regime_at(self, num_tokens: int) -> int:
        """Return its regime as it is while its text has `num_tokens`."""
        decides = num_tokens if self.rope_dynamic_from is None else self.num_prompt
        return RopeLengths(self.rope_bounds, self.rope_dynamic_from).regime(decides)

    @property
    def cache_group(self) -> Hashable:
        """What must be equal for two requests to share cached pages of equal tokens."""
        return self.group_in(self.regime)

    def group_in(self, regime: int) -> Hashable:
        """Return its `cache_group` as it is while its text is of `regime`."""
        group = (self.salt, self.adapter_hash) if self.adapter_hash else self.salt
        return (group, regime) if regime else group

    @property
    def num_new(self) -> int:
        """The number of tokens generated so far."""
        return len(self.tokens) - self.num_prompt

    @property
    def num_reusable(self) -> int:
        """The number of tokens whose rows need not run again where the cache has them."""
        if self.params.prompt_logprobs is None:
            return len(self.tokens) - 1
        reported = self.params.prompt_logprobs_start - 1 + len(self.prompt_logprobs)
        return reported if reported < self.num_prompt - 1 else len(self.tokens) - 1

    @property
    def num_remaining(self) -> int:
        """The number of tokens to run through the model before the next one can be chosen."""
        return len(self.tokens) - self.num_computed

    @property
    def outputs(self) -> list[int]:
        """The tokens generated so far."""
        return self.tokens[self.num_prompt :]

    def to_dict(self) -> dict[str, Any]:  # Any: JSON values
        """Return the whole state as JSON values; page numbers mean nothing elsewhere."""
        found = {
            item.name: getattr(self, item.name)
            for item in fields(self)
            if item.name not in ("params", "drafts", "draft_parents", "pages", "entries")
        }
        found["tokens"] = list(self.tokens)
        found["keep"] = self.keep and self.keep.to_dict()
        return {**found, "state": str(self.state), "params": self.params.to_dict()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Request":  # Any: JSON values
        """Build from what `to_dict` returned, even after a round through JSON."""
        plain = dict(values)
        for name in ("logprobs", "prompt_logprobs"):
            plain[name] = [{int(t): float(v) for t, v in entry.items()} for entry in plain[name]]
        plain["keep"] = plain["keep"] and Keeping.from_dict(plain["keep"])
        plain["params"] = SamplingParams.from_dict(plain["params"])
        plain["state"] = RequestState(plain["state"])
        plain["rope_bounds"] = tuple(plain.get("rope_bounds", ()))
        return cls(**plain)


class RequestError(DataError):
    """One request of a batch cannot go on; the others can once it is closed."""

    def __init__(self, message: str, request: Request) -> None:
        super().__init__(message)
        self.request = request
