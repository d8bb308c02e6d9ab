"""Contexts: what a token costs behind few and many others, for one request and for several."""

from typing import Annotated, ClassVar, NamedTuple

from pydantic import Field

from treadle.core.method import Standard
from treadle.core.ports import Asked, Generator
from treadle.core.progress import steps
from treadle.core.result import Figure, Measurement, Series
from treadle.core.seed import numpy_stream
from treadle.judge.bench.base import Benchmark, Outcome
from treadle.judge.bench.repeated import Spent, beyond, lost, middle, rates, repeated, waited

__all__ = ["Contexts"]

_Counts = tuple[Annotated[int, Field(ge=1)], ...]


class _Cell(NamedTuple):
    num_tokens: int
    num_requests: int

    @property
    def name(self) -> str:
        return f"{self.num_requests}x{self.num_tokens}"


class Contexts(Benchmark):
    """Measure prompts and answers over a grid of lengths and numbers of requests.

    All requests of a cell have prompts of one length, each its own, which are computed once; then
    answers of `new_tokens` tokens, and of one, are asked for again and again behind them, and the
    difference is what the further tokens take. The prompt's rate is that of its first time, which
    nothing warmed up but the cells before.
    """

    name: ClassVar[str] = "contexts"
    paper = Standard("Decode and prefill over context and batch, as llama-bench and vLLM sweep it.")
    repeats_prompts: ClassVar[bool] = True

    contexts: Annotated[_Counts, Field(min_length=1)] = (128, 1024, 4096)
    """Tokens of the prompts."""
    batches: Annotated[_Counts, Field(min_length=1)] = (1, 8)
    """Numbers of requests that are answered together."""
    new_tokens: Annotated[int, Field(ge=2)] = 16
    """Tokens of each answer."""
    rounds: Annotated[int, Field(ge=1)] = 3
    """How often answers are measured."""

    def measure(self, model: Generator, seed: int) -> Outcome:
        """Return the rates of every cell that the model and its cache hold, and their curves."""
        cells = [_Cell(n, count) for n in sorted(self.contexts) for count in sorted(self.batches)]
        stream = numpy_stream(seed, "benchmark prompts")
        found: list[Measurement] = []
        notes: list[str] = []
        prompts: dict[_Cell, Spent] = {}
        answers: dict[_Cell, Spent] = {}
        model.answer([[0] * 8], Asked(2, ignores_end=True))  # warms up
        with steps("measure contexts", len(cells)) as bar:
            for cell in cells:
                bar.advance()
                if cell.num_tokens + self.new_tokens > model.max_positions:
                    notes.append(f"{cell.name} is longer than the model's context.")
                    continue
                needed = cell.num_requests * (cell.num_tokens + self.new_tokens)
                if needed > model.cache_tokens:
                    notes.append(f"{cell.name} does not fit into a cache of {model.cache_tokens}.")
                    continue
                shape = (cell.num_requests, cell.num_tokens)
                tokens = stream.integers(model.vocab_size, size=shape).tolist()
                first, later = self._cell(model, tokens)
                prompts[cell] = first
                found += rates(f"prompt {cell.name}", shape[0] * shape[1], [first], "tokens")
                if not later:
                    notes.append(lost(f"answer {cell.name}"))
                    continue
                answers[cell] = middle(later)
                made = cell.num_requests * (self.new_tokens - 1)
                found += rates(f"answer {cell.name}", made, later, "tokens")
                notes.append(waited(f"answer {cell.name}", later, model.num_threads))
        figures = (
            self._figure("answered", answers, self.new_tokens - 1),
            self._figure("read", prompts, None),
        )
        return Outcome(found, notes, figures if answers else ())

    def _cell(self, model: Generator, prompts: list[list[int]]) -> tuple[Spent, list[Spent]]:
        short, long = (Asked(n, ignores_end=True) for n in (1, self.new_tokens))
        (first,) = repeated(lambda: model.answer(prompts, short), 1, warms_up=False)
        again = middle(repeated(lambda: model.answer(prompts, short), self.rounds))
        whole = repeated(lambda: model.answer(prompts, long), self.rounds)
        return first, beyond(whole, again)

    def _figure(self, what: str, spent: dict[_Cell, Spent], num_each: int | None) -> Figure:
        """Return the rates by processor time; `num_each` tokens of each request, or its prompt."""
        counts = sorted({cell.num_requests for cell in spent})
        lines = [
            (count, [cell for cell in spent if cell.num_requests == count]) for count in counts
        ]
        return Figure(
            kind="line",
            title=f"Tokens {what} in a second of processor time",
            x_label="tokens of the prompt",
            y_label="tokens a second",
            series=[
                Series(
                    name=f"{count} request{'s' * (count > 1)}",
                    x=[float(cell.num_tokens) for cell in cells],
                    y=[count * (num_each or cell.num_tokens) / spent[cell].cpu for cell in cells],
                )
                for count, cells in lines
            ],
        )
