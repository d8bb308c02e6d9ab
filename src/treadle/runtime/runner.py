"""The loop's body: schedule, run, sample, check for the end; what one engine does in a step."""

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple
from weakref import WeakKeyDictionary

from treadle.core.errors import DataError
from treadle.runtime.answer.constraint import Constraint
from treadle.runtime.answer.outputs import DraftCounts, LoadReport, load_report
from treadle.runtime.answer.sample import choose, logprobs_of
from treadle.runtime.answer.text import TextStream
from treadle.runtime.draft.proposal import Draft
from treadle.runtime.executor import Executor, Floats
from treadle.runtime.linear.lora import Adapters
from treadle.runtime.logits import require_numbers
from treadle.runtime.request import Request, RequestError
from treadle.runtime.schedule.batch import Batch
from treadle.runtime.schedule.rows import RowChunk, rows_of
from treadle.runtime.schedule.searches import TreeSearches
from treadle.runtime.sharing.account import SlotsRead
from treadle.runtime.speculate.picking import verified
from treadle.runtime.speculate.shapes import allowed_part
from treadle.runtime.speculate.speculation import Speculation
from treadle.runtime.structured import StructuredOutputs

__all__ = ["Runner", "TokenEvent"]


class TokenEvent(NamedTuple):
    """A request got a token, or ended, or both."""

    request: Request
    token: int | None


class Runner:
    """Steps a batch with an executor; not safe for several threads at once."""

    def __init__(
        self,
        batch: Batch,
        executor: Executor,
        eos_tokens: frozenset[int],
        clock: Callable[[], float],
        text_of: Callable[[Request], TextStream] | None = None,
        adapters: Adapters | None = None,
        constrain: Callable[[StructuredOutputs], Constraint] | None = None,
        speculation: Speculation | None = None,
    ) -> None:
        self.batch, self.executor = batch, executor
        self._read_before = _tokens_read(executor)
        self.searches = TreeSearches(batch)
        """The trees whose controllers choose for their branches."""
        self.adapters = adapters or Adapters(executor)
        self.eos_tokens, self._clock = eos_tokens, clock
        self._text_of, self._constrain = text_of, constrain
        self._constraints: WeakKeyDictionary[Request, Constraint] = WeakKeyDictionary()
        self.texts: dict[str, TextStream] = {}
        """The text of every request that has a token, where there is a tokenizer; whoever asked for
        the request drops it."""
        self.num_rows = 0
        """Rows computed since the start."""
        self.speculation = speculation
        self.drafted = DraftCounts()

    def step(self) -> list[TokenEvent]:
        """Run one step and return what came of it; nothing where nothing can run.

        Raises:
            RequestError: One request cannot keep its form.
            CheckpointError: The model's logits are no numbers.
        """
        if self.speculation is not None:
            own = [r for r in self.batch.running.values() if not self.searches.has(r)]
            self.speculation.propose(self.batch, own, self._allowed_part, self._end_tokens)
        chunks = self.batch.schedule()
        events = [TokenEvent(request, None) for request in self.batch.expired]
        self.batch.expired.clear()
        if not chunks:
            self.searches.decide()  # branches may have expired
            return events
        pool = self.batch.pool
        began = self._clock()
        rows = rows_of(chunks, pool.page_size, self.adapters.slots())
        logits = self.executor.forward(rows, pool.store)
        require_numbers(logits, pool.store.dtype)
        self.num_rows += len(rows.tokens)
        if self.speculation is not None:
            self.speculation.ran(chunks, rows, logits, self._clock() - began)
        first = 0
        for chunk in chunks:
            last = first + len(chunk.wanted)
            try:
                events += self._take(chunk, logits[first:last])
            except DataError as error:
                raise RequestError(str(error), chunk.request) from error
            first = last
        self.searches.decide()
        if self.speculation is not None:
            self.speculation.done()
        return events

    def load_report(self) -> LoadReport:
        """Say how busy the batch is, and what was done since the start."""
        read = _tokens_read(self.executor).minus(self._read_before)
        return load_report(self.batch, self.num_rows, replace(self.drafted), read)

    def _take(self, chunk: RowChunk, logits: Floats) -> list[TokenEvent]:
        """Note a chunk's results; returns the events of its new tokens."""
        if self.searches.take(chunk, logits):
            return []
        request = chunk.request
        first = request.num_computed
        num_input = max(0, min(first + chunk.num_rows, request.num_prompt) - first)
        asked = len(logits) - chunk.num_choices
        for row, values in zip(chunk.wanted[:asked], logits[:asked], strict=True):
            self._tell_prompt(request, first + row + 1, values)
        if chunk.num_choices:
            tokens, path, reason = self._choose(request, logits[asked:])
            first_draft = request.num_slots + chunk.num_rows - chunk.num_choices + 1
            self.batch.holdings.compact(request, first_draft, path[: len(tokens) - 1])
        else:
            tokens, reason = [], None
        self.batch.policy.computed(request, num_input, len(tokens))
        self.batch.advance(chunk, chunk.num_choices - len(tokens))
        if reason is not None:
            self.batch.finish(request, reason)
        return [TokenEvent(request, token) for token in tokens]

    def _tell_prompt(self, request: Request, place: int, logits: Floats) -> None:
        """Note how likely a token was that stands in the text already."""
        token = request.tokens[place]
        params = request.params
        if params.prompt_logprobs is not None and place < request.num_prompt:
            told = params.prompt_logprobs_start + len(request.prompt_logprobs)
            if place >= max(1, told):
                found = logprobs_of(logits, token, params.prompt_logprobs)
                request.prompt_logprobs.append(found)
        if request.reads_surprises and place == len(request.surprises):
            request.surprises.append(_surprise(logits, token))

    def _choose(self, request: Request, logits: Floats) -> tuple[list[int], list[int], str | None]:
        """Choose a token by the row of the last one, and on as long as the drafts foresaw it.

        Returns the tokens, the places of the drafts that were among them, and why the request ends
        with the last token, or None.
        """
        verified = self._verified(request, logits)
        followers = _followers(request, len(logits) - 1)
        request.drafts, request.draft_parents = [], []
        request.num_drafted += len(logits) - 1
        tokens: list[int] = []
        path: list[int] = []
        place: int | None = -1
        reason = None
        while place is not None and reason is None:
            known = verified[len(tokens)] if verified else None
            tokens.append(self._sample(request, logits[place + 1], known))
            reason = self._end(request, tokens[-1])
            place = followers.get((place, tokens[-1]))
            path += [] if place is None else [place]
        request.num_accepted += len(path)
        self.drafted.add(len(logits) - 1, len(path), len(tokens))
        if self.speculation is not None:
            self.speculation.chose(request, tokens)
        return tokens, path, reason

    def _verified(self, request: Request, logits: Floats) -> list[int]:
        """Return what drafts that have laws leave of themselves, and what follows; [] for others.

        Other tokens are drawn by one random number each, whatever was drafted.
        """
        if self.speculation is None:
            return []
        laws = self.speculation.laws_of(request)[: len(logits) - 1]
        if not laws:
            return []
        return verified(
            *(request, laws, logits, self._end_tokens(request)),
            self.speculation.verification,
        )

    def _sample(self, request: Request, logits: Floats, token: int | None = None) -> int:
        """Note the token that follows, which is chosen here unless it is known."""
        if token is None:
            constraint = self._constraint(request)
            allowed = None if constraint is None else constraint.allowed()
            token = choose(logits, request, self._end_tokens(request), allowed)
        if request.params.logprobs is not None:
            request.logprobs.append(logprobs_of(logits, token, request.params.logprobs))
        if request.reads_surprises and len(request.tokens) == len(request.surprises):
            request.surprises.append(_surprise(logits, token))
        if request.first_token is None:
            request.first_token = self._clock()
        request.tokens.append(token)
        return token

    def _allowed_part(self, request: Request, draft: Draft) -> Draft:
        """Return the part of a draft that the form of an answer allows."""
        constraint = self._constraint(request) if draft.tokens else None
        return draft if constraint is None else allowed_part(draft, constraint.count_allowed)

    def _constraint(self, request: Request) -> Constraint | None:
        """Return where an answer stands in its form; it follows from the tokens alone."""
        structured = request.params.structured_outputs
        if structured is None:
            return None
        if request not in self._constraints:
            assert self._constrain is not None
            self._constraints[request] = self._constrain(structured)
        self._constraints[request].follow(request.outputs)
        return self._constraints[request]

    def _end_tokens(self, request: Request) -> frozenset[int]:
        own = frozenset(request.params.stop_token_ids)
        return own if request.params.ignore_eos else own | self.eos_tokens

    def _end(self, request: Request, token: int) -> str | None:
        """Return why `request` ends with `token`, or None."""
        params = request.params
        if token in self._end_tokens(request):
            request.stop_reason = token if token in params.stop_token_ids else None
            self._follow(request, len(request.tokens) - (not params.include_stop_str_in_output))
            return "stop"
        text = self._follow(request, len(request.tokens))
        if text is not None and text.stop is not None:
            request.stop_reason = text.stop
            return "stop"
        constraint = self._constraint(request)
        if constraint is not None and constraint.is_complete:
            return "stop"
        is_full = len(request.tokens) >= self.executor.shape.max_positions
        if is_full or request.num_new == params.max_tokens:
            return "length"
        return None

    def _follow(self, request: Request, num_tokens: int) -> TextStream | None:
        """Return the text of a request with its newest tokens taken in."""
        if self._text_of is None:
            return None
        if request.id not in self.texts:
            self.texts[request.id] = self._text_of(request)
        self.texts[request.id].follow(num_tokens)
        return self.texts[request.id]


def _surprise(logits: Floats, token: int) -> float:
    """Return how improbable a token was, in nats."""
    return -logprobs_of(logits, token, 0)[token]


def _followers(request: Request, count: int) -> dict[tuple[int, int], int]:
    """Return the places of the first drafts by the place before each and its token."""
    parents = request.draft_parents or range(-1, count - 1)
    return {
        (parent, token): place
        for place, (parent, token) in enumerate(
            zip(parents[:count], request.drafts[:count], strict=True)
        )
    }


def _tokens_read(executor: Executor) -> SlotsRead:
    """Return the cached tokens that an executor has read, where it counts them."""
    found: SlotsRead = getattr(executor, "tokens_read", SlotsRead(0, 0))
    return found
