"""A model that takes time by a formula, for the tests of benchmarks; not a test itself."""

from collections.abc import Sequence

from treadle.core.ports import Answer, Asked


class Clock:
    """Moves only when a `Clocked` model works; stands in for the module time."""

    def __init__(self) -> None:
        self.now = 0.0
        self.worked = 0.0
        self.own = 0.0

    def perf_counter(self) -> float:
        return self.now

    def process_time(self) -> float:
        return self.worked

    def thread_time(self) -> float:
        return self.own


CLOCK = Clock()


class Clocked:
    """Answers cost a fixed time for each prompt token and each further token.

    The processors work for `busy` of it, all threads together.
    """

    vocab_size, max_positions, bytes_per_token, flops_per_token = 100, 4096, 1_000_000, 2_000_000
    cache_tokens, num_threads, busy = 8192, 2, 2.0

    def __init__(self, prompt_seconds: float = 0.0, token_seconds: float = 1e-3) -> None:
        self.prompt_seconds, self.token_seconds = prompt_seconds, token_seconds
        self.calls: list[tuple[list[int], int]] = []

    def answer(self, prompts: Sequence[Sequence[int]], asked: Asked) -> list[Answer]:
        assert asked.ignores_end
        assert all(0 <= token < self.vocab_size for prompt in prompts for token in prompt)
        self.work([len(prompt) for prompt in prompts], asked.max_tokens)
        return [Answer("", (0,) * asked.max_tokens, False) for _ in prompts]

    def work(self, lengths: list[int], num_new: int) -> None:
        self.calls.append((lengths, num_new))
        spent = self.prompt_seconds * sum(lengths) + self.token_seconds * (num_new - 1)
        CLOCK.now += spent or 1e-9
        CLOCK.worked += self.busy * (spent or 1e-9)
        CLOCK.own += min(self.busy, 1.0) * (spent or 1e-9)
