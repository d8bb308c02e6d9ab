"""Questions: what a model says, and how fast."""

import time
from typing import Annotated, ClassVar

from pydantic import Field

from treadle.core.method import Standard
from treadle.core.ports import Asked, Generator
from treadle.core.result import Measurement
from treadle.judge.bench.base import Benchmark

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

    def measure(self, model: Generator, seed: int) -> list[Measurement]:
        """Return the rate of each answer, with its text as the note."""
        model.answer(self.questions[:1], Asked(1, is_chat=True))  # warms up
        found = []
        for number, question in enumerate(self.questions, 1):
            started = time.perf_counter()
            (answer,) = model.answer([question], Asked(self.new_tokens, is_chat=True))
            seconds = time.perf_counter() - started
            found.append(
                Measurement(
                    name=f"answer {number}",
                    value=len(answer.token_ids) / seconds,
                    unit="tokens per second",
                    better="higher",
                    note=f"{question} {' '.join(answer.text.split())}",
                )
            )
        return found
