"""Questions: what a model says, and how fast."""

from typing import Annotated, ClassVar

from pydantic import AfterValidator, Field

from treadle.core.method import Standard
from treadle.core.ports import Asked, Generator
from treadle.core.result import Measurement
from treadle.judge.bench.base import Benchmark, Outcome
from treadle.judge.bench.repeated import Spent, waited

__all__ = ["Questions"]

_QUESTIONS = (
    "What is the capital of Japan?",
    "What is the chemical symbol for water?",
    "What is the opposite of hot?",
)
"""Each with one answer, and no near-tie at its first token in any form of the packaged model's
weights: a near-tie tells forms apart that hardly differ."""


def _distinct(questions: tuple[str, ...]) -> tuple[str, ...]:
    """Refuse a question that stands twice: its answers would bear one name."""
    again = next((one for n, one in enumerate(questions) if one in questions[:n]), None)
    if again is not None:
        raise ValueError(f"'{again}' is asked twice; ask each question once")
    return questions


class Questions(Benchmark):
    """Ask a model real questions, one after the other, and note its answers beside their speed.

    The chat template stands around each question, answers are greedy, and their time includes the
    prompt's. It shows what a speed is worth: an answer that is fast and wrong is easily seen.
    """

    name: ClassVar[str] = "questions"
    paper = Standard("Asking it: what a person does first with a model.")

    questions: Annotated[tuple[str, ...], Field(min_length=1), AfterValidator(_distinct)] = (
        _QUESTIONS
    )
    """What is asked."""
    new_tokens: Annotated[int, Field(ge=1)] = 32
    """Most tokens of an answer."""

    def measure(self, model: Generator, seed: int) -> Outcome:
        """Return the rate of all answers, and of each, which its question names, with its text."""
        model.answer(self.questions[:1], Asked(1, is_chat=True))  # warms up
        found, num_tokens, whole = [], 0, Spent(0.0, 0.0, 0.0)
        for question in self.questions:
            began = Spent.until()
            (answer,) = model.answer([question], Asked(self.new_tokens, is_chat=True))
            spent = Spent.until(began)
            text = " ".join(answer.text.split())
            found.append(_rate(question, len(answer.token_ids) / spent.wall, text))
            num_tokens += len(answer.token_ids)
            whole = Spent(*(before + more for before, more in zip(whole, spent, strict=True)))
        all_answers = [
            _rate("rate", num_tokens / whole.wall, ""),
            _rate("rate_by_cpu", num_tokens / whole.cpu, "", "tokens per processor second"),
        ]
        return Outcome(all_answers + found, [waited("rate", [whole], model.num_threads)])


def _rate(name: str, value: float, note: str, unit: str = "tokens per second") -> Measurement:
    return Measurement(name=name, value=value, unit=unit, better="higher", note=note)
