"""Questions: what a model says, and how fast."""

import time
from typing import Annotated, ClassVar

from pydantic import Field

from treadle.core.method import Standard
from treadle.core.result import Measurement
from treadle.judge.bench.base import Answerer, Benchmark

__all__ = ["Questions"]

_QUESTIONS = (
    "What is the capital of France?",
    "Name three primary colours.",
    "Why is the sky blue?",
)


class Questions(Benchmark):
    """Ask a model real questions, one after the other, and note its answers beside their speed.

    The chat template stands around each question, answers are greedy, and their time includes the
    prompt's. It shows what a speed is worth: an answer that is fast and wrong is easily seen.
    """

    name: ClassVar[str] = "questions"
    paper = Standard("Asking it: what a person does first with a model.")

    questions: tuple[str, ...] = _QUESTIONS
    """What is asked."""
    new_tokens: Annotated[int, Field(ge=1)] = 32
    """Most tokens of an answer."""

    def measure(self, model: Answerer, seed: int) -> list[Measurement]:
        """Return the rate of each answer, with its text as the note."""
        model.ask(self.questions[0], 1)  # warms up
        found = []
        for number, question in enumerate(self.questions, 1):
            started = time.perf_counter()
            text, num_tokens = model.ask(question, self.new_tokens)
            seconds = time.perf_counter() - started
            found.append(
                Measurement(
                    name=f"answer {number}",
                    value=num_tokens / seconds,
                    unit="tokens per second",
                    better="higher",
                    note=f"{question} {' '.join(text.split())}",
                )
            )
        return found
