"""Engines for the tests, and what their answers should be; not a test itself."""

from collections.abc import Callable, Sequence

import numpy as np
import torch

from runtime.kept import kept_sets
from treadle.core.simulate import VirtualClock
from treadle.runtime.admit.queue import Queue, choose_admission
from treadle.runtime.cache.pages import KeyValues, PagePool
from treadle.runtime.cache.radix import PrefixTree
from treadle.runtime.draft.base import DraftTarget
from treadle.runtime.evict.keeping import Keeping
from treadle.runtime.executor import ModelShape, Segment, StepRows
from treadle.runtime.request import Request, RequestState, SamplingParams
from treadle.runtime.runner import Runner
from treadle.runtime.schedule.batch import Batch
from treadle.runtime.schedule.limits import Limits
from treadle.runtime.speculate.speculation import open_speculation
from treadle.runtime.timed import TimedExecutor

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


def seen_slots(part: Segment, number: int) -> np.ndarray:
    """The slots of its context that a row of a segment sees."""
    if part.ancestors is None:
        return np.arange(part.context_length - part.num_rows + number + 1)
    bits = sum(int(word) << 64 * place for place, word in enumerate(part.ancestors[number]))
    tail = [at for at in range(bits.bit_length()) if bits >> at & 1]
    assert bits.bit_length() <= part.context_length - part.prefix_length
    return np.concatenate([np.arange(part.prefix_length), part.prefix_length + np.array(tail)])


class EchoExecutor(TimedExecutor):
    """Costs time, and reads its answer from the pages: one wrong, stale or lost page shows.

    So does an entry that was computed while its text was in another regime.
    """

    is_timed = False

    def forward(self, rows: StepRows, pool: KeyValues) -> np.ndarray:
        logits = super().forward(rows, pool)
        size, plain = pool.page_size, rows.slots >= 0
        pages, offsets = rows.slots[plain] // size, rows.slots[plain] % size
        regimes = rows.rope_regimes(self.shape)
        for layer in pool.layers:
            layer.keys[pages, :, 0, offsets] = rows.tokens[plain][:, None]
            layer.values[pages, :, offsets, 1] = rows.positions[plain][:, None]
            layer.values[pages, :, offsets, 0] = regimes[plain][:, None]
        logits[:] = 0
        wanted = {int(row): place for place, row in enumerate(rows.wanted)}
        for number, part in enumerate(rows.segments()):
            own = -1 if rows.heads is None else int(rows.heads.numbers[number])
            if own >= 0:
                for row, token in self._kept(rows, pool, number, own, regimes):
                    if row in wanted:
                        logits[wanted[row], token] = 5
                continue
            assert part.context_length <= len(part.pages) * size
            for row in range(part.first_row, part.first_row + part.num_rows):
                if row not in wanted:
                    continue
                slots = seen_slots(part, row - part.first_row)
                for layer in pool.layers:
                    places = layer.values[part.pages[slots // size], -1, slots % size, 1]
                    assert (places == np.arange(len(slots))).all()
                    held = layer.values[part.pages[slots // size], :, slots % size, 0]
                    right = self._regimes_of(rows, number, regimes[row], places)
                    assert (held == right[:, None]).all()
                held = pool.layers[-1].keys[part.pages[slots // size], -1, 0, slots % size]
                self.say(logits[wanted[row]], held.astype(int))
        return logits

    def say(self, logits: np.ndarray, tokens: np.ndarray) -> None:
        """Write what follows after `tokens` into a row of zeros."""
        logits[next_token(tokens)] = 5

    def _regimes_of(self, rows: StepRows, number: int, regime: int, places: np.ndarray):
        """What the entries must be of that a row of `regime` reads, at these places before it."""
        first = self.shape.rope_dynamic_from
        if first is None:
            return np.full(len(places), regime)
        return (np.maximum(places + 1, rows.text_lengths[number]) - first).clip(0)

    def _kept(self, rows: StepRows, pool: KeyValues, segment: int, own: int, regimes: np.ndarray):
        """Yield what each row of a segment says whose heads have their own tables."""
        size, arena, part = pool.page_size, pool.arena, list(rows.segments())[segment]
        lengths, planes = rows.heads.lengths[own], rows.heads.planes[own]
        assert part.context_length == lengths.max()
        for number in range(part.num_rows):
            row, held = part.first_row + number, []
            for length, table in zip(lengths, planes, strict=True):
                slots = np.arange(length - part.num_rows + number + 1)
                at = (table[slots[-1] // size], slots[-1] % size)
                arena.keys[at[0], 0, at[1]] = rows.tokens[row]
                arena.positions[at] = rows.positions[row]
                arena.values[(*at, 0)] = regimes[row]
                found = (table[slots // size], slots % size)
                places = arena.positions[found]
                right = self._regimes_of(rows, segment, regimes[row], places)
                assert (arena.values[(*found, 0)] == right).all()
                order = arena.positions[found].argsort()
                held += [*arena.keys[found[0], 0, found[1]][order], len(slots)]
            yield row, next_token(held)


def kept_continuation(prompt: Sequence[int], count: int, keeping: Keeping) -> list[int]:
    """What the echo model says if each head sees what `keeping` leaves it."""
    tokens = list(prompt)
    for _ in range(count):
        seen = kept_sets(keeping, SHAPE.kv_heads, len(tokens), len(prompt))[-1]
        tokens.append(
            next_token([x for own in seen for x in (*(tokens[p] for p in own), len(own))])
        )
    return tokens[len(prompt) :]


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
        rope_bounds: tuple[int, ...] = (),
        rope_dynamic_from: int | None = None,
        speculate: str | dict[str, object] = "none",
        **limits: object,
    ) -> None:
        self.clock = VirtualClock()
        shape = SHAPE._replace(rope_bounds=rope_bounds, rope_dynamic_from=rope_dynamic_from)
        self.executor = executor(shape, self.clock.advance, 0.0, row_seconds)
        self.pool = PagePool(KeyValues(SHAPE.kv_heads, SHAPE.head_dim, num_pages, page_size))
        self.tree = PrefixTree(self.pool)
        self.policy = Queue(choose_admission(policy, ageing_seconds), self.tree)
        self.limits = Limits(**{"max_num_seqs": 4, "max_num_batched_tokens": 16, **limits})
        self.batch = Batch(self.pool, self.tree, self.policy, self.limits, self.clock)
        self.runner = Runner(
            *(self.batch, self.executor, frozenset(), self.clock),
            speculation=open_speculation(speculate, DraftTarget(VOCAB), self.clock),
        )
        self.finished: list[str] = []

    def add(self, name: str, prompt: Sequence[int], count: int, **fields: object) -> Request:
        params = fields.pop("params", None) or SamplingParams(temperature=0, max_tokens=count)
        shape = self.executor.shape
        fields |= {
            "rope_bounds": shape.rope_bounds,
            "rope_dynamic_from": shape.rope_dynamic_from,
        }
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
