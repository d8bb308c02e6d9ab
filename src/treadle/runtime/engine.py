"""The thread-safe core: requests in, steps, state out; what serves and what migrates."""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

from treadle.core.errors import SettingsError, TreadleError
from treadle.runtime.admit.base import Admission
from treadle.runtime.admit.queue import Queue
from treadle.runtime.answer.constraint import Constraint, Grammars
from treadle.runtime.answer.evicted import likelihoods, stepped
from treadle.runtime.answer.outputs import LoadReport
from treadle.runtime.answer.sample import request_key
from treadle.runtime.cache.pages import KeyValues, PagePool
from treadle.runtime.cache.radix import PrefixTree
from treadle.runtime.executor import Executor, Floats
from treadle.runtime.linear.lora import Adapters
from treadle.runtime.prompts import Prompt, Prompts
from treadle.runtime.request import Request, SamplingParams
from treadle.runtime.runner import Runner, TokenEvent
from treadle.runtime.schedule import migrate
from treadle.runtime.schedule.batch import Batch
from treadle.runtime.schedule.holdings import ModelSeen
from treadle.runtime.schedule.limits import Limits
from treadle.runtime.schedule.policies import Policies
from treadle.runtime.speculate.speculation import Speculation
from treadle.runtime.structured import StructuredOutputs
from treadle.runtime.typed import number, require, text, whole

__all__ = ["Engine"]


class Engine:
    """An executor, its cache and its batch; calls may come from several threads."""

    def __init__(
        self,
        executor: Executor,
        store: KeyValues,
        prompts: Prompts,
        limits: Limits,
        *,
        policy: Admission,
        seed: int = 0,
        clock: Callable[[], float] = time.monotonic,
        base: frozenset[str] = frozenset(),
        name: Callable[[], str] = str,
        weights: str = "",
        policies: Policies | None = None,
        speculation: Speculation | None = None,
    ) -> None:
        """Put the parts together.

        Args:
            executor: Computes the steps.
            store: The cache's arrays.
            prompts: Of the model.
            limits: Of a batch.
            policy: Order of admission.
            seed: Of requests without a seed of their own.
            clock: Seconds.
            base: The names by which adapters may call the model.
            name: Gives the hash of the model's numbers when requests move.
            weights: The forms in which matrices are held.
            policies: Say what requests keep of their caches; None: everything.
            speculation: Drafts tokens; None for none.
        """
        self._policies = policies or Policies(executor)
        self._name, self._weights = name, weights
        self.shape, self.prompts = executor.shape, prompts
        pool = PagePool(store)
        tree = PrefixTree(pool)
        seen = ModelSeen(sum(executor.query_heads), self.shape.head_dim, executor.turns)
        self._batch = Batch(pool, tree, Queue(policy, tree), limits, clock, seen)
        text_of = prompts.text_of if prompts.has_tokenizer else None
        self._adapters = Adapters(executor, base)
        self._runner = Runner(
            *(self._batch, executor, prompts.eos_tokens, clock, text_of),
            adapters=self._adapters,
            constrain=self._constrain,
            speculation=speculation,
        )
        self._seed, self._clock, self._num_submitted = whole("seed", seed), clock, 0
        self._turn = threading.Condition()

    def __reduce__(self) -> str:
        """Refuse to be pickled or copied: threads, locks and open files do not travel."""
        raise SettingsError(
            f"{type(self).__name__} cannot be pickled or copied; give its folder to the other "
            f"process and load it there, or fork after loading."
        )

    @cached_property
    def _grammars(self) -> Grammars:
        prompts = self.prompts
        return Grammars(prompts.tokenizer, prompts.eos_tokens, self.shape.vocab_size)

    def _constrain(self, structured: StructuredOutputs) -> Constraint:
        return self._grammars.constraint(structured)

    def check(self, params: SamplingParams) -> None:
        """Refuse settings that the model does not fit, and forms that cannot be compiled.

        `submit` does so, too; a form that was checked is compiled, so that `submit` need not.

        Raises:
            DataError: They name tokens that the model does not know.
            SettingsError: They are no SamplingParams, or the form of the answer cannot be compiled.
        """
        is_right = isinstance(params, SamplingParams)
        require(is_right, "sampling_params", params, "SamplingParams(...)")
        self.prompts.check(params)
        if params.structured_outputs is not None:
            self._constrain(params.structured_outputs)

    @property
    def adapters(self) -> list[str]:
        """The names of the adapters that requests may ask for."""
        return self._adapters.names

    def add_adapter(self, name: str, folder: str | Path) -> str | None:
        """Load a LoRA adapter in peft's format, for requests that ask for it by `name`.

        Returns a note if the adapter says that it was trained on another base; its shapes fit.

        Raises:
            SettingsError: The name is in use.
            CheckpointError: There is no adapter, or it is one for another base.
            UnsupportedModelError: It is no plain LoRA on matrices of decoder blocks.
        """
        with self._turn:
            return self._adapters.add(name, folder)

    def remove_adapter(self, name: str) -> None:
        """Forget an adapter.

        Raises:
            SettingsError: There is none of this name, or unfinished requests use it.
        """
        with self._turn:
            users = [r.id for r in self._batch.requests() if r.adapter == name]
            if users:
                raise SettingsError(
                    f"Adapter '{name}' is in use by {len(users)} unfinished requests (the first is "
                    f"'{users[0]}'); let them end, or cancel them first."
                )
            self._adapters.remove(name)

    def submit(
        self,
        prompt: Prompt,
        sampling_params: SamplingParams | None = None,
        *,
        request_id: str | None = None,
        client: str = "",
        priority: int = 0,
        cache_salt: str = "",
        adapter: str | None = None,
        timeout_seconds: float | None = None,
    ) -> list[Request]:
        """Let a prompt wait for its turn and return its requests, one for each answer.

        They run while somebody calls `step`, `generate` or `stream`.

        Args:
            prompt: Text, or token ids.
            sampling_params: How to answer.
            request_id: Unique among the unfinished; answer i > 0 appends ``/i``.
            client: Among clients the fair policy shares.
            priority: Lower comes first and stays longer in the cache.
            cache_salt: Only requests of one salt share cached pages.
            adapter: Name of the LoRA adapter that answers; None for the model as it is.
            timeout_seconds: Until the request is ended with what it has.

        Raises:
            DataError: The prompt is empty, too long, of another type or has unknown ids.
            SettingsError: The id is in use, there is no such adapter, an argument is of another
                type, or the form of the answer cannot be compiled.
            CapacityError: The cache is too small for it.
        """
        params = SamplingParams() if sampling_params is None else sampling_params
        self.check(params)
        for_others = "None here: beams are for generate, and search(PROMPT, 'beam')"
        require(params.beam_width is None, "beam_width", params.beam_width, for_others)
        tokens = self.prompts.tokens(prompt)
        priority = whole("priority", priority)
        for name, value in (("client", client), ("cache_salt", cache_salt)):
            text(name, value)
        if request_id is not None:
            text("request_id", request_id)
        if timeout_seconds is not None:
            timeout_seconds = number("timeout_seconds", timeout_seconds, 0)
        with self._turn:
            adapter_hash, keep = self._adapters.hash_of(adapter), self._policies.of(params)
            if request_id is None:
                self._num_submitted += 1
                request_id = f"request-{self._num_submitted}"
            deadline = None if timeout_seconds is None else self._clock() + timeout_seconds
            requests: list[Request] = []
            for index in range(params.n):
                # Logprobs of the prompt are the same for every answer.
                own = params if index == 0 else replace(params, prompt_logprobs=None)
                request = Request(
                    id=f"{request_id}/{index}" if index else request_id,
                    tokens=list(tokens),
                    num_prompt=len(tokens),
                    params=own,
                    key=request_key(self._seed, request_id, index, params.seed),
                    client=client,
                    priority=priority,
                    salt=cache_salt,
                    adapter=adapter,
                    adapter_hash=adapter_hash,
                    deadline=deadline,
                    parent=request_id if index else None,
                    keep=keep,
                    heads_hash=self._policies.hash_of(keep),
                    rope_bounds=self.shape.rope_bounds,
                    rope_dynamic_from=self.shape.rope_dynamic_from,
                )
                try:
                    self._batch.add(request, self._max_length(request))
                except TreadleError:
                    self.close(requests)
                    raise
                requests.append(request)
        return requests

    def _max_length(self, request: Request) -> int:
        longest, most = self.shape.max_positions, request.params.max_tokens
        return longest if most is None else min(longest, request.num_prompt + most)

    def step(self) -> list[TokenEvent]:
        """Run one step of the batch; returns the new tokens and the ends."""
        with self._turn:
            return self._runner.step()

    def log_probs(
        self,
        rows: Sequence[Sequence[int]],
        firsts: Sequence[int] | None = None,
        adapter: str | None = None,
        params: SamplingParams | None = None,
    ) -> list[Floats]:
        """Return the log-probabilities of each text's tokens, from one on.

        They are what a request would see. Common starts are computed once.

        Args:
            rows: Token ids; a text may fill the whole context.
            firsts: The first token of each that is asked for, at least 1; None: all but token 0.
            adapter: Name of the LoRA adapter that all are scored with.
            params: Say what they keep of their caches, if not what the engine does.

        Raises:
            DataError: A text is empty or too long, or has unknown ids.
            CheckpointError: Its logits are no numbers.
            SettingsError, CapacityError: No such adapter; the cache is too small for a text.
        """
        texts = [self.prompts.tokens(list(row), is_continued=False) for row in rows]
        with self._turn:
            slot = self._adapters.slot_of(adapter)
            keep = self._policies.of(params or SamplingParams())
            scored = likelihoods(self._batch, self.executor, texts, firsts, keep, slot)
        for count in stepped(scored, self._turn):
            self._runner.num_rows += count
        return scored.found()

    def close(self, requests: list[Request]) -> None:
        """Cancel what is unfinished of `requests` and forget their texts."""
        with self._turn:
            for request in requests:
                if request.id in self._batch and self._batch.get(request.id) is request:
                    self._batch.finish(request, "cancelled")
                self._runner.texts.pop(request.id, None)
            self._turn.notify_all()

    def cancel(self, request_id: str) -> None:
        """End an unfinished request with what it has: a tree's id ends all of its branches.

        Raises:
            SettingsError: There is none of this id.
        """
        with self._turn:
            for own in self._runner.searches.ids_of(request_id):
                self._end(own, "cancelled")

    def forget(self, request_id: str) -> None:
        """End a request here because another engine has taken it over.

        Raises:
            SettingsError: There is none of this id.
        """
        self._end(request_id, "migrated")

    def _end(self, request_id: str, reason: str) -> None:
        with self._turn:
            self._batch.finish(self._batch.get(request_id), reason)
            self._turn.notify_all()

    def pause(self, request_id: str) -> None:
        """Stop running a request; it keeps its place in the cache unless others need it.

        Raises:
            SettingsError: There is none of this id.
        """
        with self._turn:
            self._batch.pause(self._batch.get(self._runner.searches.id_of(request_id)))

    def resume(self, request_id: str) -> None:
        """Let a paused request run on.

        Raises:
            SettingsError: It is not paused.
        """
        with self._turn:
            self._batch.resume(self._runner.searches.id_of(request_id))
            self._turn.notify_all()

    @property
    def cache_tokens(self) -> int:
        """Tokens whose keys and values the cache holds."""
        pool = self._batch.pool
        return pool.num_pages * pool.page_size

    @property
    def kv_dtype(self) -> str:
        """How keys and values are stored."""
        return self._batch.pool.store.dtype

    @cached_property
    def origin(self) -> migrate.Origin:
        """What another engine must share to take this one's requests.

        The first call hashes the model, at about a gigabyte a second, and no step waits for it; for
        folders the hash is remembered in the cache.

        Raises:
            CheckpointError: The model's files changed since it was loaded.
        """
        pool = self._batch.pool
        return migrate.Origin(self._name(), self._weights, pool.store.dtype, pool.page_size)

    def export_pages(self, request_id: str, first_page: int = 0) -> migrate.ExportedPages:
        """Return the state of a request and its pages from `first_page` on (see `migrate`)."""
        origin = self.origin
        with self._turn:
            return migrate.export_pages(self._batch, request_id, first_page, self._clock, origin)

    def import_pages(self, exported: migrate.ExportedPages) -> None:
        """Take pages of another engine's request, which waits here for its `commit`.

        Raises:
            SettingsError: The pages are of another model or form, the id is in use, the pages do
                not fit on what came before, or the request's adapter is not the one of its name
                here.
            CapacityError: Too few pages are free.
            CheckpointError: The model's files changed since it was loaded.
        """
        migrate.require_same(exported, self.origin)
        with self._turn:
            bounds, first = self.shape.rope_lengths  # of the same model
            own = {"rope_bounds": list(bounds), "rope_dynamic_from": first}
            exported = exported._replace(state={**exported.state, **own})
            request = Request.from_dict(exported.state)
            self._adapters.require_same(request)
            self._policies.require_same(request)
            self.check(request.params)
            longest = self._max_length(request)
            migrate.import_pages(self._batch, exported, longest, self._clock)

    def commit(self, request_id: str) -> Request:
        """Let an imported request run on here and return it.

        Raises:
            SettingsError: None of this id was imported.
        """
        with self._turn:
            request = self._batch.get(request_id)
            self.resume(request_id)
            return request

    @property
    def num_rows(self) -> int:
        """Rows computed since the start."""
        return self._runner.num_rows

    @property
    def executor(self) -> Executor:
        """What computes the steps."""
        return self._runner.executor

    def load_report(self) -> LoadReport:
        """Say how busy the engine is."""
        with self._turn:
            return self._runner.load_report()
