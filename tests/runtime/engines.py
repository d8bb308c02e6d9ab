"""Engines for the tests, and what their answers should be; not a test itself."""

from collections.abc import Callable, Sequence

import numpy as np
import torch

from treadle.runtime.batch import Batch
from treadle.runtime.executor import ModelShape, StepRows
from treadle.runtime.limits import Limits
from treadle.runtime.pages import KeyValues, PagePool
from treadle.runtime.policy import make_policy
from treadle.runtime.radix import PrefixTree
from treadle.runtime.request import Request, RequestState, SamplingParams
from treadle.runtime.runner import Runner
from treadle.runtime.timed import TimedExecutor, VirtualClock

VOCAB = 97
SHAPE = ModelShape((1, 2), 2, VOCAB, 8, 512, (None, None))
TIE = 1e-3


def next_token(tokens: Sequence[int]) -> int:
    """What the echo model says after `tokens`: it depends on every one of them and their order."""
    total = 0
    for token in tokens:
        total = (total * 31 + int(token) + 1) % 1_000_003
    return total % VOCAB


def continuation(prompt: Sequence[int], count: int) -> list[int]:
    tokens = list(prompt)
    for _ in range(count):
        tokens.append(next_token(tokens))
    return tokens[len(prompt) :]


class EchoExecutor(TimedExecutor):
    """Costs time, and reads its answer from the pages: one wrong, stale or lost page shows."""

    is_timed = False

    def forward(self, rows: StepRows, pool: KeyValues) -> np.ndarray:
        logits = super().forward(rows, pool)
        size = pool.page_size
        for layer in pool.layers:
            layer.keys[rows.slots // size, :, 0, rows.slots % size] = rows.tokens[:, None]
            layer.values[rows.slots // size, :, rows.slots % size, 1] = rows.positions[:, None]
        logits[:] = 0
        wanted = {int(row): place for place, row in enumerate(rows.wanted)}
        for part in rows.segments():
            assert part.context_length <= len(part.pages) * size
            for row in range(part.first_row, part.first_row + part.num_rows):
                if row not in wanted:
                    continue
                length = part.context_length - part.num_rows + row - part.first_row + 1
                slots = np.arange(length)
                for layer in pool.layers:
                    places = layer.values[part.pages[slots // size], -1, slots % size, 1]
                    assert (places == slots).all()
                held = pool.layers[-1].keys[part.pages[slots // size], -1, 0, slots % size]
                logits[wanted[row], next_token(held.astype(int))] = 5
        return logits


class Small:
    """A runner over a small cache with a virtual clock."""

    def __init__(
        self,
        num_pages: int = 8,
        page_size: int = 4,
        policy: str = "fcfs",
        executor: Callable[..., TimedExecutor] = EchoExecutor,
        row_seconds: float = 1.0,
        ageing_seconds: float = 1e9,
        **limits: object,
    ) -> None:
        self.clock = VirtualClock()
        self.executor = executor(SHAPE, self.clock.advance, 0.0, row_seconds)
        self.pool = PagePool(KeyValues(SHAPE.kv_heads, SHAPE.head_dim, num_pages, page_size))
        self.tree = PrefixTree(self.pool)
        self.policy = make_policy(policy, self.tree, ageing_seconds)
        self.limits = Limits(**{"max_num_seqs": 4, "max_num_batched_tokens": 16, **limits})
        self.batch = Batch(self.pool, self.tree, self.policy, self.limits, self.clock)
        self.runner = Runner(self.batch, self.executor, frozenset(), self.clock)
        self.finished: list[str] = []

    def add(self, name: str, prompt: Sequence[int], count: int, **fields: object) -> Request:
        params = fields.pop("params", None) or SamplingParams(temperature=0, max_tokens=count)
        request = Request(name, list(prompt), len(prompt), params, 0, **fields)
        self.batch.add(request, len(prompt) + count)
        return request

    def step(self) -> list:
        events = self.runner.step()
        self.finished += [e.request.id for e in events if e.request.state is RequestState.FINISHED]
        return events

    def run(self) -> None:
        for _ in range(10_000):
            if not len(self.batch):
                return
            self.step()
        raise AssertionError("nothing ends")


def greedy_ties(model: torch.nn.Module, prompt: list[int], answer: list[int]) -> int:
    """Check that each token of `answer` is transformers' best after those before; count ties."""
    tokens = torch.tensor([prompt + answer])
    with torch.no_grad():
        logits = model(input_ids=tokens).logits[0, len(prompt) - 1 : -1]
    best = logits.topk(2).values
    gap = best[:, 0] - best[:, 1]
    chosen = logits.gather(1, torch.tensor(answer)[:, None])[:, 0]
    is_tie = gap <= TIE
    assert bool(((chosen == best[:, 0]) | (is_tie & (chosen >= best[:, 1]))).all())
    return int(is_tie.sum())
