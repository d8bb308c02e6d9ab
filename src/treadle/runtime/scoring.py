"""The runtime as a Scorer: what each token of a text costs a model, however it is held."""

from collections.abc import Sequence
from functools import cached_property

from treadle.core.errors import SettingsError
from treadle.core.shapes import Float, Tensor
from treadle.runtime.answer.outputs import RequestOutput
from treadle.runtime.answering import computed_by, weight_bytes
from treadle.runtime.llm import LLM
from treadle.runtime.request import SamplingParams

__all__ = ["RuntimeScorer"]

_LARGEST_BIAS = 100.0


class RuntimeScorer:
    """Scores tokens by the runtime; see `treadle.core.ports.Scorer`.

    Each row is a request: its tokens but the last are the prompt, whose logprobs are reported, and
    the last is the answer, which a bias makes the model give. So a row may fill the whole context,
    and what is measured is what a request would see: weights and cache as they are held, entries
    that were evicted, an adapter.

    Args:
        llm: The model.
        adapter: Name of the LoRA adapter that it is scored with.
    """

    def __init__(self, llm: LLM, adapter: str | None = None) -> None:
        self._llm, self._adapter = llm, adapter
        self.bytes_per_token = weight_bytes(llm)

    @cached_property
    def computed_by(self) -> str:
        """What computes, and in which form it holds the weights."""
        return computed_by(self._llm)

    def token_losses(self, rows: Sequence[Sequence[int]]) -> list[Float[Tensor, "_predicted"]]:
        """Return -log p of every token but the first of each row, in nats, in float32.

        Raises:
            DataError: A token is none of the model's, or its logits are no numbers.
            SettingsError: A row is longer than the model's context.
        """
        import torch

        most = self._llm.shape.max_positions
        longest = max(map(len, rows), default=0)
        if longest > most:
            raise SettingsError(
                f"A row of {longest} tokens is longer than the model's {most} positions; give "
                f"shorter ones."
            )
        prompts = [list(row[:-1]) for row in rows]
        lasts = [row[-1] for row in rows]
        params = [_asking(0, bias={last: _LARGEST_BIAS}) for last in lasts]
        outputs = self._llm.generate(prompts, params, adapter=self._adapter)
        found = []
        for prompt, last, output in zip(prompts, lasts, outputs, strict=True):
            reported = output.prompt_logprobs or []
            inside = [entry[t] for entry, t in zip(reported[1:], prompt[1:], strict=True) if entry]
            end = _last(output, last)
            if end is None:  # so unlikely that no bias reaches it
                end = self._among_all(prompt, last)
            found.append(torch.tensor([-value for value in [*inside, end]]))
        return found

    def _among_all(self, prompt: list[int], last: int) -> float:
        """Return the logprob of `last` after `prompt`, by asking for those of all tokens."""
        params = _asking(self._llm.shape.vocab_size)
        (output,) = self._llm.generate([prompt], params, adapter=self._adapter)
        end = _last(output, last)
        assert end is not None, "the logprobs of all tokens were asked for"
        return end


def _asking(num_best: int, bias: dict[int, float] | None = None) -> SamplingParams:
    return SamplingParams(
        max_tokens=1,
        temperature=0.0,
        ignore_eos=True,
        logprobs=num_best,
        prompt_logprobs=0 if bias else None,
        logit_bias=bias,
    )


def _last(output: RequestOutput, token: int) -> float | None:
    logprobs = output.outputs[0].logprobs
    assert logprobs is not None
    return logprobs[0].get(token)
