"""A model that takes time by a formula, for the tests of benchmarks; not a test itself."""

from collections.abc import Sequence


class Clock:
    """Moves only when a `Clocked` model works; stands in for the module time."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now


CLOCK = Clock()


class Clocked:
    """Answers cost a fixed time for each prompt token and each further token."""

    vocab_size, max_positions, bytes_per_token, flops_per_token = 100, 4096, 1_000_000, 2_000_000

    def __init__(self, prompt_seconds: float = 0.0, token_seconds: float = 1e-3) -> None:
        self.prompt_seconds, self.token_seconds = prompt_seconds, token_seconds
        self.calls: list[tuple[list[int], int]] = []

    def answer(self, prompts: Sequence[Sequence[int]], num_new: int) -> None:
        self.calls.append(([len(prompt) for prompt in prompts], num_new))
        assert all(0 <= token < self.vocab_size for prompt in prompts for token in prompt)
        spent = self.prompt_seconds * sum(map(len, prompts)) + self.token_seconds * (num_new - 1)
        CLOCK.now += spent or 1e-9
