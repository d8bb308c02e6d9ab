"""The Python door: a model that answers prompts, many at once."""

import asyncio
import time
import warnings
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import fields
from functools import partial
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self, cast

import numpy as np

from treadle.core.checkpoint.described import says_bundle
from treadle.core.checkpoint.layered import says_layers
from treadle.core.errors import SettingsError
from treadle.core.progress import steps
from treadle.core.registry import near
from treadle.model.load import resolve
from treadle.model.source import name_later
from treadle.runtime.admit.queue import choose_admission
from treadle.runtime.answer.embedding import HiddenMean
from treadle.runtime.answer.outputs import Delta, RequestOutput, completion
from treadle.runtime.collecting import collecting_later
from treadle.runtime.conversation import Messages
from treadle.runtime.draft.base import Drafter, Drafting, DraftTarget
from treadle.runtime.engine import Engine
from treadle.runtime.evict.keeping import choose_keeping
from treadle.runtime.executor import Executor, Floats
from treadle.runtime.linear.held import HeldWeights
from treadle.runtime.linear.lora import base_names
from treadle.runtime.linear.packed import AUTO
from treadle.runtime.prompts import Prompt, Prompts, as_list, text_in
from treadle.runtime.request import Request, RequestState, SamplingParams
from treadle.runtime.schedule.limits import limits_of
from treadle.runtime.settings import EngineSettings, show_as_keywords
from treadle.runtime.speculate.speculation import open_speculation
from treadle.runtime.store import make_store
from treadle.runtime.typed import require

if TYPE_CHECKING:
    from treadle.model.classes import Tokenizer

__all__ = ["LLM"]

_OPTIONS = [
    p.name for p in signature(Engine.submit).parameters.values() if p.kind is p.KEYWORD_ONLY
]
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
            if executor is None:
                executor = _executor(folder, chosen)
            prompts = self._prompts_class(folder, executor.shape)
            target = DraftTarget(
                executor.shape.vocab_size, partial(_draft_model, executor, prompts, chosen)
            )
            super().__init__(
                executor,
                make_store(
                    *(executor.shape, chosen.cache_bytes, chosen.page_size, chosen.kv_dtype),
                    *(limits.max_num_seqs, chosen.device),
                ),
                prompts,
                limits,
                policy=choose_admission(chosen.policy, chosen.ageing_seconds),
                seed=chosen.seed,
                clock=clock,
                base=base_names(folder),
                name=name,
                weights=held_forms(executor),
                keep=choose_keeping(chosen.keep, chosen.keep_budget),
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
        _check_options(options)
        is_list = isinstance(sampling_params, Sequence)
        settings = _for_each(sampling_params, not is_list, len(several), "sampling parameters")
        is_list = isinstance(adapter, Sequence) and not isinstance(adapter, str)
        names = _for_each(adapter, not is_list, len(several), "adapters")
        groups: list[list[Request]] = []
        try:
            for prompt, own, name in zip(several, settings, names, strict=True):
                groups.append(self.submit(prompt, own, adapter=name, **options))
            everything = [request for group in groups for request in group]
            total = len(everything)
            with steps("generate", total) as bar:
                done = 0
                while done < total:
                    self._drive(everything, None)
                    now = sum(r.state is RequestState.FINISHED for r in everything)
                    bar.advance(now - done)
                    done = now
            return [
                self._output(group, text_in(prompt))
                for group, prompt in zip(groups, several, strict=True)
            ]
        finally:
            for group in groups:
                self.close(group)

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
        _check_options(options)
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
                completion(request, index, self._show(request, True))
                for index, request in enumerate(group)
            ]
        start = first.params.prompt_logprobs_start
        asked = first.params.prompt_logprobs is not None
        unasked = [None] * min(start, first.num_prompt)
        logprobs = [*unasked, *first.prompt_logprobs] if asked else None
        return RequestOutput(first.id, prompt, first.tokens[: first.num_prompt], answers, logprobs)


def held_forms(executor: Executor) -> str:
    """Return the forms in which an executor holds a model's matrices."""
    held = getattr(executor, "weights", None)
    return ", ".join(sorted(held.forms)) if isinstance(held, HeldWeights) else "fp32"


def held_bytes(executor: Executor) -> int:
    """Return the bytes of a model's weights as an executor holds them; 0 where it has none."""
    return int(getattr(executor, "weight_bytes", 0))


def _executor(folder: Path, chosen: EngineSettings) -> Executor:
    from treadle.runtime.choice import choose_executor, generic_executor

    if chosen.device == "cpu":
        return choose_executor(folder, chosen.weights, chosen.num_threads, chosen.trust_remote_code)
    if chosen.weights not in (AUTO, "fp32"):
        raise SettingsError(
            f"weights = '{chosen.weights}' is for the CPU; leave it at auto on {chosen.device}."
        )
    return generic_executor(folder, chosen.device, chosen.trust_remote_code)


def _draft_model(
    executor: Executor, prompts: Prompts, chosen: EngineSettings, method: Drafter
) -> Drafting:
    from treadle.runtime.choice import draft_model

    return draft_model(
        *(method, executor, prompts),
        num_threads=chosen.num_threads,
        trust_remote_code=chosen.trust_remote_code,
    )


def _check_options(options: Mapping[str, object]) -> None:
    """Refuse what `submit` does not know, and say where sampling parameters go."""
    names = [item.name for item in fields(SamplingParams)]
    for name in options:
        if name in names:
            raise SettingsError(
                f"{name} is a sampling parameter; give it inside of SamplingParams({name}=...)."
            )
        if name not in _OPTIONS:
            raise SettingsError(f"No option '{name}' of a request. {near(name, _OPTIONS)}")


def _for_each(values: Any, is_single: bool, count: int, what: str) -> list[Any]:  # Any: settings
    """Return one value for each prompt: a single one counts for all."""
    if is_single:
        return [values] * count
    if len(values) != count:
        raise SettingsError(
            f"Found {len(values)} {what} for {count} prompts; give one for each, or one for all."
        )
    return list(values)


show_as_keywords(EngineSettings, LLM.__init__)
_, *_shown = signature(LLM.__init__).parameters.values()
LLM.__signature__ = signature(LLM.__init__).replace(parameters=_shown)  # type: ignore[attr-defined]
# Or help would show what `__new__` takes.
