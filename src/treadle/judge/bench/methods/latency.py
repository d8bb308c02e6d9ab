"""Latency: one request at a time."""

from typing import Annotated, ClassVar

from pydantic import Field

from treadle.core import hardware
from treadle.core.method import Standard
from treadle.core.ports import Asked, Generator
from treadle.core.result import Measurement
from treadle.core.seed import numpy_stream
from treadle.judge.bench.base import Benchmark, Outcome
from treadle.judge.bench.repeated import beyond, lost, middle, rates, repeated, waited

__all__ = ["Latency"]


class Latency(Benchmark):
    """Measure how long one request takes: its prompt, then token after token.

    The prompt's time is that of an answer of one token; what longer answers take beyond it, shared
    out over their further tokens, is the time of a token. The roofline is the smaller of what
    memory can deliver (measured reading bandwidth over the bytes of weights that a token reads)
    and what the processor can multiply (measured float32 peak over the operations of a token);
    both are measured right before and after, and the higher figures count.

    Williams et al., "Roofline: an insightful visual performance model", 2009.
    """

    name: ClassVar[str] = "latency"
    paper = Standard("Williams et al., Roofline, Communications of the ACM 52(4), 2009.")

    prompt_tokens: Annotated[int, Field(ge=1)] = 128
    """Tokens of the prompt."""
    new_tokens: Annotated[int, Field(ge=2)] = 64
    """Tokens of the answer."""
    rounds: Annotated[int, Field(ge=1)] = 5
    """How often it is measured."""

    def measure(self, model: Generator, seed: int) -> Outcome:
        """Return the rates of prompt and answer, and the fraction of the roofline."""
        if not model.bytes_per_token:
            return self._rates(model, seed)
        found, machine = hardware.measure_beside(lambda: self._rates(model, seed))
        by_cpu = [one.value for one in found.measurements if one.name == "answer_by_cpu"]
        on_all = [rate * max(model.num_threads, 1) for rate in by_cpu]
        added = [one for rate in on_all for one in self._roofline(model, rate, machine)]
        return found._replace(measurements=found.measurements + added)

    def _rates(self, model: Generator, seed: int) -> Outcome:
        stream = numpy_stream(seed, "benchmark prompts")
        prompt = stream.integers(model.vocab_size, size=self.prompt_tokens).tolist()
        short, long = (Asked(n, ignores_end=True) for n in (1, self.new_tokens))
        first = repeated(lambda: model.answer([prompt], short), self.rounds)
        whole = repeated(lambda: model.answer([prompt], long), self.rounds)
        later = beyond(whole, middle(first))
        found = rates("prompt", self.prompt_tokens, first, "tokens")
        said = [waited("prompt", first, model.num_threads)]
        if not later:
            return Outcome(found, [*said, lost("answer")])
        found += rates("answer", self.new_tokens - 1, later, "tokens")
        return Outcome(found, [*said, waited("answer", later, model.num_threads)])

    def _roofline(
        self, model: Generator, tokens_per_second: float, machine: hardware.Hardware
    ) -> list[Measurement]:
        by_memory = machine.read_bandwidth_all_threads_bytes_per_second / model.bytes_per_token
        by_processor = machine.multiply_peak_all_threads_flops_per_second / model.flops_per_token
        ceiling = min(by_memory, by_processor)
        bound = "memory" if by_memory < by_processor else "processor"
        return [
            Measurement(
                name="bytes_per_token",
                value=model.bytes_per_token,
                unit="bytes of weights, counted",
                better="lower",
            ),
            Measurement(
                name="roofline",
                value=ceiling,
                unit=f"tokens per second, bound by the {bound}",
                note="measured beside the run, whose peak memory holds the buffer that was read",
            ),
            Measurement(
                name="roofline_fraction",
                value=tokens_per_second / ceiling,
                unit="of the roofline, by processor time",
                better="higher",
            ),
        ]
