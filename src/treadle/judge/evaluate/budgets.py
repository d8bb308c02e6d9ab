"""The protocol of a task that asks through several caches: the full one, and smaller ones."""

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, NamedTuple

from treadle.core.method import Method
from treadle.core.result import Figure, Measurement, Table

if TYPE_CHECKING:
    from treadle.model.classes import Tokenizer

__all__ = ["FULL", "Asks", "BudgetTask", "Cache", "RecallAccount", "Recalled", "Samples"]

Samples = dict[str, list[float]]
"""One value an example and measure, in a fixed order, so that a later run can pair against them."""
FULL = "full"
"""The name of a cache that keeps everything."""


class Asks(NamedTuple):
    """Prompts as tokens, of which the first `num_kept` lose entries before the rest is read."""

    prompts: list[list[int]]
    answers: list[list[int]]
    """The tokens of the right ones."""
    num_kept: int
    """Tokens of each prompt that are read before the last eviction."""
    max_tokens: int
    """Most tokens of an answer."""
    stop: tuple[str, ...]
    protocol: dict[str, Any]  # Any: JSON values
    state: Any  # Any: what the task's `score` needs again, private to it


class Cache(NamedTuple):
    """What a cache keeps: everything, or by a policy (with its settings) under a budget."""

    name: str
    policy: Any  # Any: an eviction policy of the runtime; None of the full cache
    budget: int | float | None

    @property
    def label(self) -> str:
        """The policy and its budget, for people."""
        return self.name if self.budget is None else f"{self.name} {self.budget:g}"


class Recalled(NamedTuple):
    """What came of all questions through one cache."""

    cache: Cache
    texts: list[str]
    """The greedy answers."""
    losses: list[float]
    """Of the right answers, the mean of their tokens, in nats."""
    kept: list[list[float]]
    """[layers][kv_heads] entries once a prompt is read, the mean of all prompts."""
    num_bytes: float
    """Of these: keys, values, positions, and scales where there are some."""
    peak_bytes: int
    """That the cache held at most while one prompt was read and answered by itself."""


class RecallAccount(NamedTuple):
    """What a result says of it."""

    measurements: list[Measurement]
    samples: Samples
    figures: list[Figure]
    tables: list[Table]


class BudgetTask(Method, ABC):
    """Asks a model through caches that keep more or less, each question through each cache."""

    @abstractmethod
    def caches(self) -> list[Cache]:
        """Return the caches that the settings name, beside the engine's own."""

    @abstractmethod
    def prepare(self, data: str, tokenizer: "Tokenizer") -> Asks:
        """Make the prompts of `data` (a path or a named text; empty without any)."""

    @abstractmethod
    def score(self, asks: Asks, found: list[Recalled]) -> RecallAccount:
        """Judge the answers; the full cache comes first."""

    @abstractmethod
    def compare(self, samples: Samples, baseline: Samples, seed: int) -> list[Measurement]:
        """Return, with intervals, how these samples differ from a baseline's."""
