"""The protocols of a task: by losses, by answers, or by both through caches that keep less."""

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from treadle.core.method import Method
from treadle.core.ports import Answer, Asked
from treadle.core.result import Measurement
from treadle.judge.evaluate.budgets import BudgetTask, Samples

if TYPE_CHECKING:
    import torch

    from treadle.model.classes import Tokenizer

__all__ = ["AnswerTask", "LossTask", "Rows", "Samples", "Scores", "Task", "TaskPrompts"]

Scores = tuple[list[Measurement], Samples]


class Rows(NamedTuple):
    """A task's examples as token rows, each of at least two tokens."""

    rows: list[list[int]]
    protocol: dict[str, Any]  # Any: JSON values
    """Everything that makes two scores comparable; its hash travels with them."""
    state: Any  # Any: what the task's `score` needs again, private to it
    firsts: list[int] | None = None
    """The first token of each row whose loss counts, at least 1; None: all but the first do."""


class TaskPrompts(NamedTuple):
    """A task's examples as prompts, and how they are to be answered."""

    prompts: list[str]
    asked: Asked
    protocol: dict[str, Any]  # Any: JSON values
    state: Any  # Any: what the task's `score` needs again, private to it


class LossTask(Method, ABC):
    """Asks a model how likely it finds given tokens, and turns their losses into scores."""

    required_parameters: ClassVar[frozenset[str]] = frozenset({"data"})
    """A task with examples of its own requires no data, and refuses it."""

    @abstractmethod
    def prepare(self, data: str, tokenizer: "Tokenizer") -> Rows:
        """Read `data` (a path or a named text; empty without any) and cut it into token rows."""

    @abstractmethod
    def score(self, prepared: Rows, losses: "list[torch.Tensor]") -> Scores:
        """Turn the losses of each row's tokens that count, in nats, into scores."""

    @abstractmethod
    def compare(self, samples: Samples, baseline: Samples, seed: int) -> list[Measurement]:
        """Return, with intervals, how these samples differ from a baseline's."""


class AnswerTask(Method, ABC):
    """Has a model answer prompts, and judges the answers."""

    required_parameters: ClassVar[frozenset[str]] = frozenset({"data"})

    @abstractmethod
    def prepare(self, data: str) -> TaskPrompts:
        """Read `data` (a path or a name; empty without any) and make prompts of it."""

    @abstractmethod
    def score(self, prepared: TaskPrompts, answers: list[Answer]) -> Scores:
        """Judge the answers to the prompts."""

    @abstractmethod
    def compare(self, samples: Samples, baseline: Samples, seed: int) -> list[Measurement]:
        """Return, with intervals, how these samples differ from a baseline's."""


Task = LossTask | AnswerTask | BudgetTask
