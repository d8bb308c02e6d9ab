"""The protocol of a benchmark: a loaded model in, findings out."""

from abc import ABC, abstractmethod
from typing import ClassVar, NamedTuple

from treadle.core.method import Method
from treadle.core.ports import Generator
from treadle.core.result import Figure, Measurement, Table

__all__ = ["Benchmark", "Outcome"]


class Outcome(NamedTuple):
    """What a benchmark found."""

    measurements: list[Measurement]
    warnings: list[str]
    """What makes a figure doubtful; an empty text says nothing."""
    figures: tuple[Figure, ...] = ()
    tables: tuple[Table, ...] = ()


class Benchmark(Method, ABC):
    """Runs a model in one way and measures it."""

    repeats_prompts: ClassVar[bool] = False
    """Whether prompts that were computed once may be found in the cache."""

    @abstractmethod
    def measure(self, model: Generator, seed: int) -> Outcome:
        """Return what was measured; prompts are drawn by `seed`."""
