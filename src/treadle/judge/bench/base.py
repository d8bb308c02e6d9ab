"""The protocol of a benchmark: a loaded model in, measurements out."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Protocol

from treadle.core.method import Method
from treadle.core.result import Measurement

__all__ = ["Answerer", "Benchmark"]


class Answerer(Protocol):
    """What a benchmark asks of a runtime: answers of a fixed length, and what a token costs."""

    def answer(self, prompts: Sequence[Sequence[int]], num_new: int) -> None:
        """Continue every prompt by `num_new` tokens, in one batch; nothing is remembered."""

    def ask(self, question: str, num_new: int) -> tuple[str, int]:
        """Return the greedy answer of at most `num_new` tokens to a user, and its tokens."""

    @property
    def vocab_size(self) -> int:
        """Token ids are below it."""

    @property
    def max_positions(self) -> int:
        """Most tokens of a text."""

    @property
    def bytes_per_token(self) -> int:
        """Bytes of weights that one token of a single request reads; 0 where it is not known."""

    @property
    def flops_per_token(self) -> int:
        """Multiplications and additions with weights that one token takes; 0 if not known."""


class Benchmark(Method, ABC):
    """Runs a model in one way and measures it."""

    @abstractmethod
    def measure(self, model: Answerer, seed: int) -> list[Measurement]:
        """Return what was measured; prompts are drawn by `seed`."""
