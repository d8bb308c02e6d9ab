"""A model that takes time by a formula, for the tests of benchmarks; not a test itself."""

import time
from collections.abc import Sequence


class Clocked:
    """Answers cost a fixed time for each prompt token and each further token."""

    vocab_size, max_positions, bytes_per_token, flops_per_token = 100, 4096, 1_000_000, 2_000_000

    def __init__(self, prompt_seconds: float = 0.0, token_seconds: float = 0.0) -> None:
        self.prompt_seconds, self.token_seconds = prompt_seconds, token_seconds
        self.calls: list[tuple[list[int], int]] = []

    def answer(self, prompts: Sequence[Sequence[int]], num_new: int) -> None:
        self.calls.append(([len(prompt) for prompt in prompts], num_new))
        assert all(0 <= token < self.vocab_size for prompt in prompts for token in prompt)
        spent = self.prompt_seconds * sum(map(len, prompts)) + self.token_seconds * (num_new - 1)
        until = time.perf_counter() + spent
        while time.perf_counter() < until:
            pass
