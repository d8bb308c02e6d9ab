"""A trace of requests served in simulated time, under each policy of who is let in first.

The scheduler is the real one (batch, budgets, pages, prefix tree, preemption); only a step's work
is replaced by its cost on a virtual clock: a constant, so much a row, and so much a pair of a row
and a slot that it sees. The costs are measured here on the packaged model, or given. Every figure
but these costs is *simulated*: it says how policies differ, not how fast this machine is.

All policies see the same requests; fcfs is the baseline of the ratios, request by request. A few
clients ask most, and a tenth of the requests is urgent, both drawn.

Usage: python benchmarks/simulated_serve.py ../shared/data/traces/mooncake_synthetic.jsonl
           [--scale 0.02] [--load 1.2] [--costs 2e-3 5e-4 1e-7]
"""

import argparse
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import store

from treadle.core.intervals import bootstrap_quantiles
from treadle.core.simulate import Simulation
from treadle.core.trace import Trace, read_trace
from treadle.runtime import LLM
from treadle.runtime.admit.queue import Queue, choose_admission
from treadle.runtime.admit.tables import ADMISSIONS
from treadle.runtime.cache.pages import KeyValues, PagePool
from treadle.runtime.cache.radix import PrefixTree
from treadle.runtime.executor import ModelShape
from treadle.runtime.request import Request, RequestState, SamplingParams
from treadle.runtime.runner import Runner
from treadle.runtime.schedule.batch import Batch
from treadle.runtime.schedule.limits import Limits
from treadle.runtime.timed import TimedExecutor

VOCAB, PAGE = 997, 16
SHAPE = ModelShape((1,), 1, VOCAB, 1, 1 << 20, (None,))
BASELINE = "fcfs"
CLIENTS = 8
URGENT_FRACTION = 0.1

Seconds = npt.NDArray[np.float64]


class Costs(NamedTuple):
    """Seconds of a step, a row, and a pair of a row and a slot that it may see."""

    step: float
    row: float
    pair: float


class Served(NamedTuple):
    """What became of each request: seconds from its arrival, in the order of the trace."""

    first: Seconds
    last: Seconds
    is_urgent: npt.NDArray[np.bool_]
    num_cached: int
    """Tokens of prompts that were found in the prefix tree."""
    num_preemptions: int


class Server:
    """A scheduler over a cache, and an executor that only costs time."""

    def __init__(self, simulation: Simulation, policy: str, costs: Costs, num_pages: int) -> None:
        self._simulation = simulation
        clock = simulation.clock
        pool = PagePool(KeyValues(SHAPE.kv_heads, SHAPE.head_dim, num_pages, PAGE))
        tree = PrefixTree(pool)
        queue = Queue(choose_admission(policy, 60.0), tree)
        self._batch = Batch(pool, tree, queue, Limits(), clock)
        executor = TimedExecutor(SHAPE, clock.advance, *costs)
        self._runner = Runner(self._batch, executor, frozenset(), clock)
        self._is_awake = False
        self.ends: dict[str, float] = {}

    def add(self, request: Request) -> None:
        """Take a request in, and step from now on if nothing ran."""
        self._batch.add(request, len(request.tokens) + request.params.max_tokens)
        if not self._is_awake:
            self._is_awake = True
            self._simulation.after(0.0, self._step)

    def _step(self) -> None:
        for event in self._runner.step():
            if event.request.state is RequestState.FINISHED:
                self.ends[event.request.id] = self._simulation.clock()
        self._is_awake = len(self._batch) > 0
        if self._is_awake:
            self._simulation.after(0.0, self._step)


def tokens_of(trace: Trace, place: int) -> list[int]:
    """Return a prompt: equal blocks of the trace are equal tokens, all else is drawn."""
    length = int(trace.prompt_tokens[place])
    parts: list[npt.NDArray[np.int64]] = []
    for block in () if trace.blocks is None else trace.blocks[place]:
        parts.append(np.random.default_rng(block).integers(0, VOCAB, trace.block_tokens))
    known = sum(map(len, parts))
    own = np.random.default_rng((1 << 40) + place)
    parts.append(own.integers(0, VOCAB, max(0, length - known)))
    return np.concatenate(parts)[:length].tolist()


def requests_of(trace: Trace, simulation: Simulation) -> list[Request]:
    """Return the requests: a few clients ask most, and a tenth of all is urgent."""
    clients = np.minimum(simulation.stream("clients").zipf(1.5, trace.num_requests), CLIENTS)
    urgent = simulation.stream("priorities").random(trace.num_requests) < URGENT_FRACTION
    found = []
    for place in range(trace.num_requests):
        params = SamplingParams(temperature=0, max_tokens=int(trace.answer_tokens[place]))
        tokens = tokens_of(trace, place)
        found.append(
            Request(
                *(str(place), tokens, len(tokens), params, 0),
                client=str(clients[place]),
                priority=-int(urgent[place]),
            )
        )
    return found


def serve(trace: Trace, policy: str, costs: Costs, num_pages: int, seed: int) -> Served:
    """Serve the whole trace in simulated time."""
    simulation = Simulation(seed)
    server = Server(simulation, policy, costs, num_pages)
    requests = requests_of(trace, simulation)
    for request, arrival in zip(requests, trace.arrival_seconds.tolist(), strict=True):
        simulation.at(arrival, lambda request=request: server.add(request))
    simulation.run()
    arrivals = trace.arrival_seconds
    firsts = np.array([request.first_token for request in requests], float)
    lasts = np.array([server.ends[request.id] for request in requests])
    return Served(
        firsts - arrivals,
        lasts - arrivals,
        np.array([request.priority < 0 for request in requests]),
        sum(request.num_cached for request in requests),
        sum(request.num_preemptions for request in requests),
    )


def measured_costs() -> Costs:
    """Return the costs of the packaged model here, one thread, 8-bit weights: least squares."""
    llm = LLM("packaged:smollm2", weights="q8", num_threads=1, enable_prefix_caching=False)
    counts, seconds = [], []
    for prompt, answer in [(16, 1), (256, 1), (512, 1), (16, 64), (512, 64)]:
        params = SamplingParams(temperature=0, max_tokens=answer, ignore_eos=True)
        taken = []
        for number in range(4):
            tokens = np.random.default_rng(number).integers(100, 1000, prompt).tolist()
            started = time.process_time()
            llm.generate([tokens], params)
            taken.append(time.process_time() - started)
        chunks = [(first, min(prompt, first + 256)) for first in range(0, prompt, 256)]
        chunks += [(prompt + k, prompt + k + 1) for k in range(answer - 1)]
        pairs = sum((stop - first) * stop for first, stop in chunks)
        counts.append((len(chunks), prompt + answer - 1, pairs))
        seconds.append(float(np.median(taken[1:])))
    weights = 1 / np.array(seconds)[:, None]  # relative errors count
    found, *_ = np.linalg.lstsq(np.array(counts) * weights, np.ones(len(seconds)), rcond=None)
    return Costs(*np.maximum(found, 0.0).tolist())


def loaded(trace: Trace, costs: Costs, load: float) -> Trace:
    """Return the trace at a speed at which it asks for `load` times what a full batch does."""
    rows = trace.prompt_tokens + trace.answer_tokens
    work = costs.row * rows.sum() + costs.step * trace.answer_tokens.sum() / Limits().max_num_seqs
    return trace.faster(load * trace.seconds / float(work))


def figures(served: Served, baseline: Served, seed: int) -> dict[str, Any]:
    """Return what one policy did, and its paired ratio to the baseline request by request."""
    urgent = served.first[served.is_urgent]
    ratios = (served.first / baseline.first).tolist()
    return {
        "first_token_seconds": np.quantile(served.first, [0.5, 0.95, 0.99]).tolist(),
        "last_token_seconds": np.quantile(served.last, [0.5, 0.95, 0.99]).tolist(),
        "urgent_first_token_seconds": np.quantile(urgent, [0.5, 0.95, 0.99]).tolist(),
        "first_token_over_fcfs": float(np.median(ratios)),
        "first_token_over_fcfs_interval": list(bootstrap_quantiles(ratios, [0.5], seed)[0]),
        "cached_prompt_tokens": served.num_cached,
        "preemptions": served.num_preemptions,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("trace", type=Path)
    parser.add_argument("--requests", type=int, default=400)
    parser.add_argument("--scale", type=float, default=0.02, help="of all lengths")
    parser.add_argument("--load", type=float, default=1.2)
    parser.add_argument("--pages", type=int, default=2048, help=f"of {PAGE} tokens")
    parser.add_argument("--costs", type=float, nargs=3, help="seconds of a step, a row, a pair")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    whole = read_trace(arguments.trace)
    costs = Costs(*arguments.costs) if arguments.costs else measured_costs()
    trace = whole.pick(np.arange(min(arguments.requests, whole.num_requests)))
    trace = loaded(trace.shorter(arguments.scale), costs, arguments.load)
    found: dict[str, Any] = {}
    baseline: Served | None = None
    for policy in sorted(ADMISSIONS.table, key=lambda name: name != BASELINE):
        started = time.perf_counter()
        served = serve(trace, policy, costs, arguments.pages, arguments.seed)
        baseline = baseline or served
        found[policy] = figures(served, baseline, arguments.seed)
        found[policy]["simulating_seconds"] = time.perf_counter() - started
        print(policy, found[policy])
    content = {
        "basis": "simulated",
        "costs_basis": "given" if arguments.costs else "measured",
        "costs_seconds": costs._asdict(),
        "trace": arguments.trace.name,
        "requests": trace.num_requests,
        "simulated_seconds_of_arrivals": trace.seconds,
        "policies": found,
    }
    print(store.write("simulated_serve", content))


if __name__ == "__main__":
    main()
