"""The course of a training: what each step showed."""

from typing import NamedTuple

__all__ = ["Course", "Fit"]


class Fit(NamedTuple):
    """What training did."""

    losses: list[float]
    """Mean loss of a token at each step, before its update, in nats."""
    gradient_norms: list[float]
    """Of all weights that learn, before clipping."""
    first_step: int
    """Where this run began: 0, or where a killed one had saved."""
    num_tokens: list[int]
    """Tokens that ran through the model in each step."""
    seconds: list[float]
    """Wall time of each step, without evaluations and saves."""
    memory_bytes: list[int]
    """What the process held in main memory at the end of each step."""
    evaluations: dict[str, list[tuple[int, float]]]
    """By the name of what was evaluated: how many updates were done, and its value."""

    @property
    def tokens_per_second(self) -> float:
        """Return the speed of the whole training."""
        return sum(self.num_tokens) / max(sum(self.seconds), 1e-9)


class Course:
    """What is known of a run so far; it grows by a step at a time."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.gradient_norms: list[float] = []
        self.num_tokens: list[int] = []
        self.seconds: list[float] = []
        self.memory_bytes: list[int] = []
        self.evaluations: dict[str, list[tuple[int, float]]] = {}

    def add(
        self, loss: float, norm: float, num_tokens: int, seconds: float, memory_bytes: int
    ) -> None:
        """Add a step."""
        self.losses.append(loss)
        self.gradient_norms.append(norm)
        self.num_tokens.append(num_tokens)
        self.seconds.append(seconds)
        self.memory_bytes.append(memory_bytes)

    def evaluated(self, step: int, values: dict[str, float]) -> None:
        """Add what was evaluated once `step` updates were done."""
        for name, value in values.items():
            self.evaluations.setdefault(name, []).append((step, value))

    def as_fit(self, first_step: int) -> Fit:
        """Return the whole."""
        return Fit(
            self.losses,
            self.gradient_norms,
            first_step,
            self.num_tokens,
            self.seconds,
            self.memory_bytes,
            self.evaluations,
        )
