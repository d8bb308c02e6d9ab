"""The runtime as a Generator: answers to prompts, and what a token costs."""

import time
from collections.abc import Sequence
from functools import cached_property

from treadle.core.errors import DataError, SettingsError
from treadle.core.ports import Answer, Asked, Decoded
from treadle.runtime.linear.held import held_forms
from treadle.runtime.llm import LLM
from treadle.runtime.native_step.llama import LlamaStep
from treadle.runtime.request import SamplingParams

__all__ = ["RuntimeGenerator", "computed_by", "weight_bytes"]


def computed_by(llm: LLM) -> str:
    """Return what computes a model's steps, and how it holds the weights, for people."""
    is_native = isinstance(llm.executor, LlamaStep)
    name = "native step" if is_native else "generic executor"
    return f"{name}, matrices in {held_forms(llm.executor)}, keys and values in {llm.kv_dtype}"


def weight_bytes(llm: LLM) -> int:
    """Return the bytes of weights that one token of a single request reads; 0 if not known."""
    return llm.executor.weight_bytes if isinstance(llm.executor, LlamaStep) else 0


class RuntimeGenerator:
    """Answers prompts by the runtime; see `treadle.core.ports.Generator`.

    Args:
        llm: The model.
        adapter: Name of the LoRA adapter that answers.
    """

    def __init__(self, llm: LLM, adapter: str | None = None) -> None:
        self._llm, self._adapter = llm, adapter
        self._drafting: dict[str, LLM] = {}
        self.vocab_size, self.max_positions = llm.shape.vocab_size, llm.shape.max_positions
        native = llm.executor if isinstance(llm.executor, LlamaStep) else None
        self.bytes_per_token = weight_bytes(llm)
        self.cache_tokens = llm.cache_tokens
        self.num_threads = native.num_threads if native else 0
        self.flops_per_token = 2 * native.num_weights if native else 0

    @cached_property
    def computed_by(self) -> str:
        """What computes, and in which form it holds the weights."""
        return computed_by(self._llm)

    @property
    def llm(self) -> LLM:
        """The model, for what only the runtime does."""
        return self._llm

    def answer(self, prompts: Sequence[str | Sequence[int]], asked: Asked) -> list[Answer]:
        """Answer all prompts in one batch.

        Raises:
            DataError: A prompt cannot be answered; the message says which.
            SettingsError: Answers that ignore their end do not fit into the model's context.
        """
        tokens, params = self._asked(prompts, asked)
        answers = [
            output.outputs[0]
            for output in self._llm.generate(tokens, params, adapter=self._adapter)
        ]
        return [
            Answer(one.text, tuple(one.token_ids), one.finish_reason == "stop") for one in answers
        ]

    def decoded(
        self, prompts: Sequence[str | Sequence[int]], asked: Asked, speculate: str
    ) -> Decoded:
        """Answer all prompts in one batch, beside the same weights, and time what follows them.

        Raises:
            DataError: A prompt cannot be answered; the message says which.
            SettingsError: There is no such drafter, an answer does not fit into the context, or an
                adapter is to answer.
        """
        if self._adapter is not None:
            raise SettingsError(
                f"Drafters are compared on a model without adapters, and '{self._adapter}' is "
                f"chosen; leave it out, or merge it into the model."
            )
        tokens, params = self._asked(prompts, asked)
        if speculate not in self._drafting:
            self._drafting[speculate] = LLM(
                self._llm.prompts.folder,
                executor=self._llm.executor,
                kv_dtype=self._llm.kv_dtype,
                enable_prefix_caching=False,
                speculate=speculate,
            )
        llm = self._drafting[speculate]
        requests = [llm.submit(one, params)[0] for one in tokens]
        try:
            while not all(request.num_new or request.finish_reason for request in requests):
                llm.step()
            before, first = llm.load_report().drafted, sum(r.num_new for r in requests)
            began = time.perf_counter(), time.process_time()
            while not all(request.finish_reason for request in requests):
                llm.step()
            wall, cpu = time.perf_counter() - began[0], time.process_time() - began[1]
            after, last = llm.load_report().drafted, sum(r.num_new for r in requests)
            found = [llm.output([request]).outputs[0] for request in requests]
        finally:
            llm.close(requests)
        return Decoded(
            [Answer(one.text, tuple(one.token_ids), one.finish_reason == "stop") for one in found],
            *(wall, cpu, last - first),
            after.num_drafted - before.num_drafted,
            after.num_accepted - before.num_accepted,
            after.num_passes - before.num_passes,
        )

    def _asked(
        self, prompts: Sequence[str | Sequence[int]], asked: Asked
    ) -> tuple[list[list[int]], SamplingParams]:
        """Return the tokens of prompts, and how they are to be answered."""
        tokens = [self._tokens(number, one, asked) for number, one in enumerate(prompts, 1)]
        longest = max(map(len, tokens), default=0) + asked.max_tokens
        if asked.ignores_end and longest > self.max_positions:
            raise SettingsError(
                f"Requests of {longest} tokens are longer than the model's {self.max_positions} "
                f"positions; give shorter prompts, or ask for shorter answers."
            )
        params = SamplingParams(
            max_tokens=asked.max_tokens,
            temperature=asked.temperature,
            stop=asked.stop,
            ignore_eos=asked.ignores_end,
            seed=asked.seed if asked.temperature else None,
        )
        return tokens, params

    def _tokens(self, number: int, prompt: str | Sequence[int], asked: Asked) -> list[int]:
        try:
            if not asked.is_chat:
                return self._llm.prompts.tokens(prompt)
            if not isinstance(prompt, str):
                raise DataError("Token ids have no place in a chat template; give a text.")
            found = self._llm.prompts.chat([{"role": "user", "content": prompt}])
            return self._llm.prompts.tokens(found)
        except DataError as error:
            raise DataError(f"Prompt {number} cannot be answered. {error}") from error
