"""The Python door: a model that answers prompts, many at once."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np

from treadle.core.errors import SettingsError
from treadle.core.progress import steps
from treadle.model.load import resolve
from treadle.runtime.device_pages import make_store
from treadle.runtime.embedding import mean_hidden
from treadle.runtime.engine import Engine
from treadle.runtime.executor import Executor, Floats
from treadle.runtime.limits import Limits
from treadle.runtime.lora import base_names
from treadle.runtime.outputs import Delta, RequestOutput, completion
from treadle.runtime.packed import AUTO
from treadle.runtime.pages import KvDtype
from treadle.runtime.policy import PolicyName
from treadle.runtime.prompts import Messages, Prompt, Prompts
from treadle.runtime.request import Request, RequestState, SamplingParams

__all__ = ["LLM"]

_WAIT_SECONDS = 0.05
"""How often a caller whose requests are all paused looks again; others wake it before."""


class LLM(Engine):
    """A causal language model and its cache.

    Calls may come from several threads and from asyncio; each of them drives the common batch.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        cache_bytes: int | None = None,
        page_size: int = 16,
        max_num_seqs: int = 16,
        max_num_batched_tokens: int = 256,
        kv_dtype: KvDtype = "fp32",
        policy: PolicyName = "fcfs",
        preemption: Literal["recompute", "swap"] = "recompute",
        enable_prefix_caching: bool = True,
        watermark_fraction: float = 0.01,
        ageing_seconds: float = 10.0,
        rows_beside_urgent: int | None = 4,
        seed: int = 0,
        weights: str = AUTO,
        num_threads: int | None = None,
        device: str = "cpu",
        trust_remote_code: bool = False,
        adapters: Mapping[str, str | Path] | None = None,
        executor: Executor | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Load a model.

        Args:
            path: A folder of floats, or quantised by GPTQ, AWQ or compressed-tensors; a GGUF file;
                ``packaged:smollm2``; or a hub id where the network allows.
            cache_bytes: Of keys and values; unless given, what `max_num_seqs` texts of full length
                take, but at most a quarter of the free memory.
            page_size: Tokens of a page.
            max_num_seqs: Requests in a batch.
            max_num_batched_tokens: Tokens of a step.
            kv_dtype: How keys and values are stored: fp32, fp16 or int8.
            policy: Order of admission: fcfs, priority, fair, fair_priority or prefix.
            preemption: recompute or swap.
            enable_prefix_caching: Whether equal starts of texts are computed once.
            watermark_fraction: Of the cache, kept free when a request is admitted beside others.
            ageing_seconds: Wait after which the prefix policy lets a request in before others.
            rows_beside_urgent: Rows of a step that all of lower priority get together beside a more
                urgent request (policies priority and fair_priority); None for no bound.
            seed: Of requests without a seed of their own.
            weights: How matrices are held by the native step: fp32, fp16, q8, q4_0 or q4_1; auto
                keeps the codes of a quantised model as they are, and holds others in fp32.
            num_threads: Of the native step; None for the physical cores.
            device: cpu, or a CUDA device (experimental).
            trust_remote_code: Whether code from the checkpoint may run.
            adapters: Name -> folder of LoRA adapters in peft's format; see `add_adapter`.
            executor: What computes the steps; None for the native step where it computes the model
                and agrees with transformers, else the generic one.
            clock: Seconds; for deadlines, ageing and reports.

        Raises:
            CheckpointError: There is no model at `path`.
            CapacityError: The cache does not hold one page.
            SettingsError: A setting is refused.
        """
        limits = Limits(
            max_num_seqs,
            max_num_batched_tokens,
            watermark_fraction,
            preemption,
            enable_prefix_caching,
            rows_beside_urgent,
        )
        folder = resolve(path, takes_files=True)
        if executor is None:
            executor = _executor(folder, weights, num_threads, device, trust_remote_code)
        super().__init__(
            executor,
            make_store(executor.shape, cache_bytes, page_size, kv_dtype, max_num_seqs, device),
            Prompts(folder, executor.shape),
            limits,
            policy=policy,
            ageing_seconds=ageing_seconds,
            seed=seed,
            clock=clock,
            base=base_names(folder),
        )
        for name, adapter in (adapters or {}).items():
            self.add_adapter(name, adapter)

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        adapter: str | Sequence[str | None] | None = None,
        **options: Any,
    ) -> list[RequestOutput]:
        """Answer prompts and return the answers in their order.

        Args:
            prompts: A text, a list of token ids, or a list of these.
            params: For all prompts, or one for each.
            adapter: Name of the LoRA adapter that answers all prompts, or one (or None) for each.
            options: Of `submit`, but for `request_id`, for all prompts.
        """
        several = _as_list(prompts)
        single = params is None or isinstance(params, SamplingParams)
        settings = _for_each(params, single, len(several), "sampling parameters")
        is_one = adapter is None or isinstance(adapter, str)
        names = _for_each(adapter, is_one, len(several), "adapters")
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
                self._output(group, prompt if isinstance(prompt, str) else None)
                for group, prompt in zip(groups, several, strict=True)
            ]
        finally:
            for group in groups:
                self.close(group)

    def chat(
        self,
        messages: Messages | Sequence[Messages],
        params: SamplingParams | Sequence[SamplingParams] | None = None,
        **options: Any,
    ) -> list[RequestOutput]:
        """Answer conversations: as `generate` with the model's chat template around them."""
        single = bool(messages) and isinstance(messages[0], Mapping)
        talks = [cast(Messages, messages)] if single else cast(Sequence[Messages], messages)
        return self.generate([self.prompts.chat(talk) for talk in talks], params, **options)

    def embed(self, prompts: Prompt | Sequence[Prompt], adapter: str | None = None) -> Floats:
        """Return a vector [prompts, hidden] for each prompt: its mean last hidden state."""
        found = []
        for prompt in _as_list(prompts):
            tokens = self.prompts.tokens(prompt)
            with self._turn:
                slot = self._adapters.slot_of(adapter)
                found.append(mean_hidden(self._batch, self._runner.executor, tokens, slot))
        return np.stack(found)

    async def stream(
        self, prompt: Prompt, params: SamplingParams | None = None, **options: Any
    ) -> AsyncIterator[Delta]:
        """Answer a prompt piece by piece; leaving the loop cancels what is not finished.

        Args:
            prompt: Text, or token ids.
            params: How to answer; the pieces of several answers come interleaved.
            options: Of `submit`.
        """
        requests = self.submit(prompt, params, **options)
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
            return Delta(
                request.id,
                index,
                self._show(request, is_finished),
                request.outputs[first:],
                None if request.params.logprobs is None else request.logprobs[first:],
                request.finish_reason,
                request.stop_reason,
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


def _executor(
    folder: Path, weights: str, num_threads: int | None, device: str, trust_remote_code: bool
) -> Executor:
    if device == "cpu":
        from treadle.runtime.choice import choose_executor

        return choose_executor(folder, weights, num_threads, trust_remote_code)
    from treadle.runtime.generic import GenericExecutor

    if weights not in (AUTO, "fp32"):
        raise SettingsError(f"weights = '{weights}' is for the CPU; leave it at auto on {device}.")
    return GenericExecutor.from_folder(folder, device, trust_remote_code)


def _as_list(prompts: Prompt | Sequence[Prompt]) -> list[Prompt]:
    """Return prompts as a list: a text or a list of ids is one prompt."""
    if isinstance(prompts, str) or (prompts and not isinstance(prompts[0], str | Sequence)):
        return [cast(Prompt, prompts)]
    return list(cast(Sequence[Prompt], prompts))


def _for_each(values: Any, is_single: bool, count: int, what: str) -> list[Any]:  # Any: settings
    """Return one value for each prompt: a single one counts for all."""
    if is_single:
        return [values] * count
    if len(values) != count:
        raise SettingsError(
            f"Found {len(values)} {what} for {count} prompts; give one for each, or one for all."
        )
    return list(values)
