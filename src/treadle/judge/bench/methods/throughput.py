"""Throughput: many requests at once."""

from typing import Annotated, ClassVar

from pydantic import Field

from treadle.core.method import Standard
from treadle.core.ports import Asked, Generator
from treadle.core.seed import numpy_stream
from treadle.judge.bench.base import Benchmark, Outcome
from treadle.judge.bench.repeated import rates, repeated, waited

__all__ = ["Throughput"]


class Throughput(Benchmark):
    """Measure how many tokens a batch of mixed requests makes in a second.

    Prompts have lengths drawn evenly from one token to `prompt_tokens`; all requests are given at
    once, and all answers are equally long. Prompt tokens do not count.
    """

    name: ClassVar[str] = "throughput"
    paper = Standard("Offline throughput as serving systems report it: answered tokens a second.")

    num_requests: Annotated[int, Field(ge=1)] = 8
    """Requests given at once."""
    prompt_tokens: Annotated[int, Field(ge=1)] = 128
    """Most tokens of a prompt."""
    new_tokens: Annotated[int, Field(ge=1)] = 64
    """Tokens of each answer."""
    rounds: Annotated[int, Field(ge=1)] = 3
    """How often it is measured."""

    def measure(self, model: Generator, seed: int) -> Outcome:
        """Return the rate of all answers together."""
        stream = numpy_stream(seed, "benchmark prompts")
        lengths = stream.integers(1, self.prompt_tokens + 1, size=self.num_requests)
        prompts = [stream.integers(model.vocab_size, size=n).tolist() for n in lengths]
        asked = Asked(self.new_tokens, ignores_end=True)
        spent = repeated(lambda: model.answer(prompts, asked), self.rounds)
        amount = self.num_requests * self.new_tokens
        return Outcome(
            rates("answers", amount, spent, "tokens of all requests together"),
            [waited("answers", spent, model.num_threads)],
        )
