"""The runtime as a Generator: answers to prompts, and what a token costs."""

from collections.abc import Sequence
from functools import cached_property

from treadle.core.errors import DataError, SettingsError
from treadle.core.ports import Answer, Asked
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
        answers = [
            output.outputs[0]
            for output in self._llm.generate(tokens, params, adapter=self._adapter)
        ]
        return [
            Answer(one.text, tuple(one.token_ids), one.finish_reason == "stop") for one in answers
        ]

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
