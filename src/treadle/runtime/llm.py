"""The Python door: a model that answers prompts, many at once."""

import asyncio
import time
import warnings
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import closing
from functools import partial
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self, cast

import numpy as np

from treadle.core.checkpoint.described import says_bundle
from treadle.core.checkpoint.layered import says_layers
from treadle.core.progress import steps
from treadle.model.load import resolve
from treadle.model.retaining import read_heads
from treadle.model.source import name_later
from treadle.runtime.admit.queue import choose_admission
from treadle.runtime.answer.branches import TreeOutput
from treadle.runtime.answer.embedding import HiddenMean
from treadle.runtime.answer.outputs import Delta, RequestOutput, completion
from treadle.runtime.collecting import collecting_later
from treadle.runtime.conversation import Messages
from treadle.runtime.decode.base import Controller
from treadle.runtime.draft.base import DraftTarget
from treadle.runtime.engine import Engine
from treadle.runtime.executor import Executor, Floats
from treadle.runtime.linear.held import held_forms
from treadle.runtime.linear.lora import base_names
from treadle.runtime.prompts import Prompt, Prompts, as_list, for_each, text_in
from treadle.runtime.request import Request, RequestState, SamplingParams
from treadle.runtime.schedule.limits import limits_of
from treadle.runtime.schedule.policies import Policies
from treadle.runtime.schedule.search import TreeSearch
from treadle.runtime.settings import EngineSettings, show_as_keywords
from treadle.runtime.speculate.speculation import open_speculation
from treadle.runtime.store import filled_store
from treadle.runtime.trees.asked import AskedSearch, check_options
from treadle.runtime.trees.searching import Searching, num_answers, num_done, requests_of
from treadle.runtime.typed import require

if TYPE_CHECKING:
    from treadle.model.classes import Tokenizer

__all__ = ["LLM"]

_WAIT_SECONDS = 0.05
"""How often a caller whose requests are all paused looks again; others wake it before."""


class LLM(Engine):
    """A causal language model and its cache.

    Calls may come from several threads and from asyncio; each of them drives the common batch.
    """

    _prompts_class: ClassVar[type[Prompts]] = Prompts
    """What knows the model's tokenizer."""

    def __new__(cls, path: str | Path = "", *_: Any, **__: Any) -> Self:  # Any: see `__init__`
        """Make the class that a folder needs: of a bundle, `RoutedLLM` or `LayeredLLM`."""
        is_path = isinstance(path, str | Path)  # what else it may be is refused by `__init__`
        if cls is LLM and is_path and says_bundle(Path(path).expanduser()):
            from treadle.runtime.routed.layers import LayeredLLM
            from treadle.runtime.routed.llm import RoutedLLM

            is_layered = says_layers(Path(path).expanduser())
            return cast(Self, object.__new__(LayeredLLM if is_layered else RoutedLLM))
        return object.__new__(cls)

    def __init__(
        self,
        path: str | Path,
        *,
        adapters: Mapping[str, str | Path] | None = None,
        executor: Executor | None = None,
        clock: Callable[[], float] = time.monotonic,
        settings: EngineSettings | None = None,
        **fields: Any,  # Any: of EngineSettings, checked there
    ) -> None:
        """Load a model.

        Args:
            path: A folder of floats, or quantised by GPTQ, AWQ or compressed-tensors; a GGUF file;
                ``packaged:smollm2``; a hub id where the network allows; or a bundle of several
                models, of which a router chooses one for each prompt (`RoutedLLM`).
            adapters: Name -> folder of LoRA adapters in peft's format; see `add_adapter`.
            executor: What computes the steps; None for the native step where it computes the model
                and agrees with transformers, else the generic one.
            clock: Seconds; for deadlines, ageing and reports.
            settings: Of the engine; None for the defaults.
            fields: Of `EngineSettings`, as keywords of their own; they win over `settings`.

        Raises:
            CheckpointError: There is no model at `path`.
            CapacityError: The cache does not hold one page.
            SettingsError: A setting is refused.
        """
        chosen = (settings or EngineSettings()).changed(fields)
        limits = limits_of(chosen)
        require(isinstance(path, str | Path), "path", path, "a folder, a GGUF file or a hub id")
        is_mapping = adapters is None or isinstance(adapters, Mapping)
        require(is_mapping, "adapters", adapters, "a mapping of names to folders")
        with collecting_later():
            folder = resolve(path, takes_files=True)
            name = name_later(folder)
            from treadle.runtime.choice import draft_model, executor_for

            if executor is None:
                executor = executor_for(folder, chosen)
            prompts = self._prompts_class(folder, executor.shape)
            drafting = partial(draft_model, executor, prompts, chosen)
            target = DraftTarget(executor.shape.vocab_size, drafting)
            super().__init__(
                executor,
                filled_store(executor, chosen, limits.max_num_seqs),
                prompts,
                limits,
                policy=choose_admission(chosen.policy, chosen.ageing_seconds),
                seed=chosen.seed,
                clock=clock,
                base=base_names(folder),
                name=name,
                weights=held_forms(executor),
                policies=Policies(executor, chosen, partial(read_heads, folder)),
                speculation=open_speculation(chosen.speculate, target, clock),
            )
            for called, adapter in (adapters or {}).items():
                note = self.add_adapter(called, adapter)
                if note:
                    warnings.warn(note, stacklevel=2)

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        adapter: str | Sequence[str | None] | None = None,
        **options: Any,
    ) -> list[RequestOutput]:
        """Answer prompts and return the answers in their order.

        Args:
            prompts: A text, token ids (a list, or an array of numpy or torch), ``{"prompt": text}``
                or ``{"prompt_token_ids": ids}``; or a list of these.
            sampling_params: For all prompts, or one for each.
            adapter: Name of the LoRA adapter that answers all prompts, or one (or None) for each.
            options: Of `submit`, but for `request_id`, for all prompts.
        """
        several = as_list(prompts)
        check_options(options)
        is_list = isinstance(sampling_params, Sequence)
        settings = for_each(sampling_params, not is_list, len(several), "sampling parameters")
        is_list = isinstance(adapter, Sequence) and not isinstance(adapter, str)
        names = for_each(adapter, not is_list, len(several), "adapters")
        groups: list[list[Request] | TreeSearch] = []
        try:
            for prompt, own, name in zip(several, settings, names, strict=True):
                groups.append(self._begin(prompt, own, adapter=name, **options))
            total = sum(map(num_answers, groups))
            with steps("generate", total) as bar:
                done = 0
                while done < total:
                    self._drive([one for group in groups for one in requests_of(group)], None)
                    now = sum(map(num_done, groups))
                    bar.advance(now - done)
                    done = now
            return [
                self._searching.answers(group, text_in(prompt), own.n)
                if isinstance(group, TreeSearch)
                else self._output(group, text_in(prompt))
                for group, own, prompt in zip(groups, settings, several, strict=True)
            ]
        finally:
            for group in groups:
                if isinstance(group, TreeSearch):
                    self._searching.close(group)
                else:
                    self.close(group)

    def _begin(
        self, prompt: Prompt, params: SamplingParams | None, **options: Any
    ) -> list[Request] | TreeSearch:
        if isinstance(params, SamplingParams) and params.beam_width is not None:
            self.check(params)
            return self._searching.begin(prompt, AskedSearch.beams(params), **options)
        return self.submit(prompt, params, **options)

    @property
    def _searching(self) -> Searching:
        return Searching(self)

    def search(
        self,
        prompt: Prompt,
        controller: Controller | str | Mapping[str, Any] = "beam",  # Any: a method's settings
        *,
        max_tokens: int | None = None,
        scorer: object = None,
        extract: Callable[[str], str | None] | None = None,
        seed: int | None = None,
        ignore_eos: bool = False,
        **options: Any,
    ) -> TreeOutput:
        """Answer a prompt along several branches, which share what they have in common.

        Args:
            prompt: As in `generate`.
            controller: Its name (beam, best_of, self_consistency, tree_of_thoughts, replay), a
                mapping of the key `method` and its settings, or the controller itself.
            max_tokens: Of a branch behind the prompt; None: 64, or what a recorded tree has.
            scorer: What a branch is worth: a callable on its text; "likelihood"; another LLM; or a
                `core.ports.Scorer`. It is asked between two steps, and everybody waits for it.
            extract: Finds what a text comes to, for self_consistency; None for its `pattern`.
            seed: Same seed and prompt, same tree; None: the engine's seed and the request's id.
            ignore_eos: Whether tokens that end a text are like any others.
            options: Of `submit`.

        Raises:
            SettingsError: There is no such controller, or it moves its leaves wrongly.
            CapacityError: It forks beyond what the cache holds at once.
        """
        check_options(options)
        asking = AskedSearch(controller, max_tokens, seed, ignore_eos, scorer, extract)
        found = self._searching.begin(prompt, asking, **options)
        try:
            while not found.is_done:
                self._drive(found.requests, None)
            return self._searching.tree(found, text_in(prompt))
        finally:
            self._searching.close(found)

    def chat(
        self,
        messages: Messages | Sequence[Messages],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        **options: Any,
    ) -> list[RequestOutput]:
        """Answer conversations: as `generate` with the model's chat template around them.

        Args:
            messages: One conversation, or a list of them. A message has a role (system, developer,
                user, assistant or tool) and a content: a text, or a list of parts
                ``{"type": "text", "text": ...}``; calls of tools stand in it as in OpenAI's
                interface.
            sampling_params: For all conversations, or one for each.
            options: Of `generate`.

        Raises:
            DataError: A role or a part is unknown, or the template refuses the messages.
        """
        is_list = isinstance(messages, Sequence) and not isinstance(messages, str)
        are_several = is_list and not any(isinstance(message, Mapping) for message in messages)
        talks = cast(Sequence[Messages], messages if are_several else [messages])
        prompts = [self.prompts.chat(talk) for talk in talks]
        return self.generate(prompts, sampling_params, **options)

    def embed(self, prompts: Prompt | Sequence[Prompt], adapter: str | None = None) -> Floats:
        """Return a vector [prompts, hidden] for each prompt: its mean last hidden state."""
        found: list[Floats] = []
        for prompt in as_list(prompts):
            with self._turn, closing(self.embedding(prompt, adapter)) as mean:
                vector = mean.step()
                while vector is None:
                    vector = mean.step()
                found.append(vector)
        empty = np.empty((0, self.shape.hidden_size), np.float32)
        return np.stack(found) if found else empty

    def embedding(self, prompt: Prompt, adapter: str | None = None) -> HiddenMean:
        """Return the vector of `embed` in the making, for who steps it between other work.

        Only one thread may step the engine and this meanwhile; close it at the end.

        Raises:
            CapacityError: The cache has no room for it now.
        """
        tokens = self.prompts.tokens(prompt, is_continued=False)
        with self._turn:
            slot = self._adapters.slot_of(adapter)
            return HiddenMean(self._batch, self._runner.executor, tokens, slot)

    def get_tokenizer(self) -> "Tokenizer":
        """Return the model's tokenizer (the name is vLLM's).

        Raises:
            DataError: It has none.
        """
        return self.prompts.tokenizer

    async def stream(
        self, prompt: Prompt, sampling_params: SamplingParams | None = None, **options: Any
    ) -> AsyncIterator[Delta]:
        """Answer a prompt piece by piece; leaving the loop cancels what is not finished.

        Args:
            prompt: Text, or token ids.
            sampling_params: How to answer; the pieces of several answers come interleaved.
            options: Of `submit`.
        """
        check_options(options)
        requests = self.submit(prompt, sampling_params, **options)
        seen = dict.fromkeys((request.id for request in requests), 0)
        unfinished = list(requests)
        try:
            while unfinished:
                await asyncio.to_thread(self._drive, unfinished, seen)
                for index, request in enumerate(requests):
                    if request in unfinished:
                        delta = self.delta(request, index, seen)
                        if delta is not None:
                            yield delta
                            if delta.finish_reason is not None:
                                unfinished.remove(request)
        finally:
            self.close(requests)

    def output(self, requests: list[Request]) -> RequestOutput:
        """Return what the requests of one `submit` have become, ending those that are not."""
        with self._turn:
            found = self._output(requests, None)
            self.close(requests)
            return found

    def _drive(self, requests: list[Request], seen: dict[str, int] | None) -> None:
        """Run a step unless one of `requests` has news already; wait where nothing can run."""
        with self._turn:
            if seen is not None and any(self._has_news(r, seen[r.id]) for r in requests):
                return
            rows, events = self._runner.num_rows, self._runner.step()
            if events or self._runner.num_rows > rows:
                self._turn.notify_all()
            elif any(r.state is not RequestState.FINISHED for r in requests):
                self._turn.wait(_WAIT_SECONDS)  # all are paused: somebody else must act

    def _has_news(self, request: Request, num_seen: int) -> bool:
        return request.state is RequestState.FINISHED or request.num_new > num_seen

    def delta(self, request: Request, index: int, seen: dict[str, int]) -> Delta | None:
        """Return what is new of an answer, or None; text may lag behind the tokens.

        Args:
            request: Of a `submit`.
            index: Of the answer among those of its `submit`.
            seen: Request id -> tokens that the caller has; brought up to date.
        """
        with self._turn:
            if not self._has_news(request, seen[request.id]):
                return None
            first, seen[request.id] = seen[request.id], request.num_new
            is_finished = request.state is RequestState.FINISHED
            text = self._runner.texts.get(request.id)
            return Delta(
                request.id,
                index,
                self._show(request, is_finished),
                request.outputs[first:],
                None if request.params.logprobs is None else request.logprobs[first:],
                request.finish_reason,
                request.stop_reason,
                [] if text is None else text.offsets[first : request.num_new],
            )

    def _show(self, request: Request, is_finished: bool) -> str:
        text = self._runner.texts.get(request.id)
        if text is None:
            return ""
        if is_finished:
            text.finish()
        return text.show(is_finished)

    def _output(self, group: list[Request], prompt: str | None) -> RequestOutput:
        first = group[0]
        for request in group:
            request.num_shown = 0
        with self._turn:
            answers = [
                completion(request, index, self._show(request, True), self.shape.kv_heads)
                for index, request in enumerate(group)
            ]
        start = first.params.prompt_logprobs_start
        asked = first.params.prompt_logprobs is not None
        unasked = [None] * min(start, first.num_prompt)
        logprobs = [*unasked, *first.prompt_logprobs] if asked else None
        return RequestOutput(first.id, prompt, first.tokens[: first.num_prompt], answers, logprobs)


show_as_keywords(EngineSettings, LLM.__init__)
_, *_shown = signature(LLM.__init__).parameters.values()
LLM.__signature__ = signature(LLM.__init__).replace(parameters=_shown)  # type: ignore[attr-defined]
# Or help would show what `__new__` takes.
