"""The protocol of a benchmark: a loaded model in, measurements out."""

from abc import ABC, abstractmethod

from treadle.core.method import Method
from treadle.core.ports import Generator
from treadle.core.result import Measurement

__all__ = ["Benchmark"]


class Benchmark(Method, ABC):
    """Runs a model in one way and measures it."""

    @abstractmethod
    def measure(self, model: Generator, seed: int) -> list[Measurement]:
        """Return what was measured; prompts are drawn by `seed`."""
