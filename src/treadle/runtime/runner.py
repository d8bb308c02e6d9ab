"""The loop's body: schedule, run, sample, check for the end; what one engine does in a step."""

from collections.abc import Callable
from typing import NamedTuple
from weakref import WeakKeyDictionary

from treadle.core.errors import DataError
from treadle.runtime.answer.constraint import Constraint
from treadle.runtime.answer.sample import choose, logprobs_of
from treadle.runtime.answer.text import TextStream
from treadle.runtime.executor import Executor, Floats
from treadle.runtime.linear.lora import Adapters
from treadle.runtime.logits import require_numbers
from treadle.runtime.request import Request, RequestError
from treadle.runtime.schedule.batch import Batch
from treadle.runtime.schedule.rows import RowChunk, rows_of
from treadle.runtime.schedule.search import TreeSearches
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
    ) -> None:
        self.batch, self.executor = batch, executor
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

    def step(self) -> list[TokenEvent]:
        """Run one step and return what came of it; nothing where nothing can run.

        Raises:
            RequestError: One request cannot keep its form.
            CheckpointError: The model's logits are no numbers.
        """
        chunks = self.batch.schedule()
        events = [TokenEvent(request, None) for request in self.batch.expired]
        self.batch.expired.clear()
        if not chunks:
            self.searches.decide()  # branches may have expired
            return events
        pool = self.batch.pool
        rows = rows_of(chunks, pool.page_size, self.adapters.slots())
        logits = self.executor.forward(rows, pool.store)
        require_numbers(logits, pool.store.dtype)
        self.num_rows += len(rows.tokens)
        first = 0
        for chunk in chunks:
            last = first + len(chunk.wanted)
            try:
                events += self._take(chunk, logits[first:last])
            except DataError as error:
                raise RequestError(str(error), chunk.request) from error
            first = last
        self.searches.decide()
        return events

    def _take(self, chunk: RowChunk, logits: Floats) -> list[TokenEvent]:
        """Note a chunk's results; returns the events of its new tokens."""
        if self.searches.take(chunk, logits):
            return []
        request = chunk.request
        first = request.num_computed
        num_input = max(0, min(first + chunk.num_rows, request.num_prompt) - first)
        asked = len(logits) - chunk.num_choices
        for row, values in zip(chunk.wanted[:asked], logits[:asked], strict=True):
            following = request.tokens[first + row + 1]
            count = request.params.prompt_logprobs or 0
            request.prompt_logprobs.append(logprobs_of(values, following, count))
        tokens, reason = self._choose(request, logits[asked:])
        self.batch.policy.computed(request, num_input, len(tokens))
        self.batch.advance(chunk, chunk.num_choices - len(tokens))
        if reason is not None:
            self.batch.finish(request, reason)
        return [TokenEvent(request, token) for token in tokens]

    def _choose(self, request: Request, logits: Floats) -> tuple[list[int], str | None]:
        """Choose a token by each row, as long as the drafts foresaw it.

        Returns the tokens, and why the request ends with the last one, or None.
        """
        drafts, tokens, reason = request.drafts, [], None
        for number, values in enumerate(logits):
            request.drafts = []
            tokens.append(self._sample(request, values))
            reason = self._end(request, tokens[-1])
            if reason is not None or tokens[-1] not in drafts[number : number + 1]:
                break
        return tokens, reason

    def _sample(self, request: Request, logits: Floats) -> int:
        constraint = self._constraint(request)
        allowed = None if constraint is None else constraint.allowed()
        token = choose(logits, request, self._end_tokens(request), allowed)
        if request.params.logprobs is not None:
            request.logprobs.append(logprobs_of(logits, token, request.params.logprobs))
        if request.first_token is None:
            request.first_token = self._clock()
        request.tokens.append(token)
        return token

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
