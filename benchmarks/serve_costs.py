"""What HTTP costs, and what urgent requests and other clients feel of a flood.

1. Eight clients against the server, and the same requests in process, in turns: tokens per second,
   and the first piece of one request. All on the cores that this process may use: pin it.
2. Urgent requests (priority -1) alone, and while 24 clients flood the server with priority 0.
3. A second client of equal priority during the flood, against twice its time alone: with two
   clients, half of the machine is a fair share.

Usage: taskset -c 0 python benchmarks/serve_costs.py [--rounds 5]
"""

import argparse
import asyncio
import contextlib
import itertools
import time
from typing import Any

import numpy as np
import store
from servers import Server, ask, prompt, serving

from treadle.core.intervals import bootstrap_quantiles
from treadle.runtime import LLM, SamplingParams
from treadle.runtime.client import Endpoint

CLIENTS, READ, WRITTEN = 8, 64, 64
FLOOD, URGENT_READ, URGENT_WRITTEN = 24, 48, 32


def quartiles(values: list[float]) -> list[float]:
    return [float(value) for value in np.quantile(values, [0.25, 0.5, 0.75])]


async def at_once(server: Server, first: int) -> tuple[float, float]:
    """Return tokens a second of eight clients, and the first piece's seconds of one alone."""
    async with Endpoint(server.url) as endpoint:
        alone = await ask(endpoint, prompt(first + 900, READ), 1)
        started = time.perf_counter()
        asked = [ask(endpoint, prompt(first + k, READ), WRITTEN) for k in range(CLIENTS)]
        answers = await asyncio.gather(*asked)
        seconds = time.perf_counter() - started
    return sum(answer["tokens"] for answer in answers) / seconds, alone["first"]


def in_process(llm: LLM, first: int) -> tuple[float, float]:
    """Return the same of the runtime itself."""
    started = time.perf_counter()
    params = SamplingParams(max_tokens=1, temperature=0)
    llm.generate([prompt(first + 900, READ)], params)
    alone = time.perf_counter() - started
    started = time.perf_counter()
    params = SamplingParams(max_tokens=WRITTEN, temperature=0, ignore_eos=True)
    llm.generate([prompt(first + k, READ) for k in range(CLIENTS)], params)
    return CLIENTS * WRITTEN / (time.perf_counter() - started), alone


def overhead(server: Server, llm: LLM, rounds: int) -> dict[str, Any]:
    rates, firsts = [], []
    for number in range(rounds + 1):
        theirs = in_process(llm, 1000 * number)
        ours = asyncio.run(at_once(server, 1000 * number))
        if number:  # the first round warms up
            rates.append((ours[0], theirs[0]))
            firsts.append(ours[1] - theirs[1])
    return {
        "server_tokens_per_second": quartiles([one for one, _ in rates]),
        "in_process_tokens_per_second": quartiles([one for _, one in rates]),
        "ratio": quartiles([one / other for one, other in rates]),
        "first_piece_beyond_in_process_seconds": quartiles(firsts),
    }


async def flooded(server: Server, count: int) -> dict[str, Any]:
    """Return the seconds of urgent requests and of another client, alone and in a flood."""
    numbers = itertools.count(10_000)

    async def one(endpoint: Endpoint, user: str, priority: int) -> float:
        asked = prompt(next(numbers), URGENT_READ)
        answer = await ask(endpoint, asked, URGENT_WRITTEN, user=user, priority=priority)
        assert answer["status"] == 200, answer
        return float(answer["seconds"])

    async def flood(endpoint: Endpoint) -> None:
        while True:
            await ask(endpoint, prompt(next(numbers), URGENT_READ), 64, user="flood")

    async with Endpoint(server.url) as endpoint:
        alone = [await one(endpoint, "urgent", -1) for _ in range(count)]
        tasks = [asyncio.create_task(flood(endpoint)) for _ in range(FLOOD)]
        await asyncio.sleep(3.0)
        urgent = [await one(endpoint, "urgent", -1) for _ in range(count)]
        other = [await one(endpoint, "other", 0) for _ in range(count // 2)]
        for task in tasks:
            task.cancel()
        for task in tasks:
            with contextlib.suppress(asyncio.CancelledError):
                await task
    return {"alone": alone, "urgent": urgent, "other": other}


def of_flood(seconds: dict[str, list[float]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, values in seconds.items():
        levels = [0.5, 0.99]
        intervals = bootstrap_quantiles(values, levels, 0)
        found[name] = {
            f"p{round(100 * level)}": [float(np.quantile(values, level)), *interval]
            for level, interval in zip(levels, intervals, strict=True)
        }
    alone = found["alone"]
    found["urgent_p99_over_alone_p99"] = found["urgent"]["p99"][0] / alone["p99"][0]
    found["urgent_p50_over_alone_p50"] = found["urgent"]["p50"][0] / alone["p50"][0]
    found["other_p50_over_twice_alone_p50"] = found["other"]["p50"][0] / (2 * alone["p50"][0])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="packaged:smollm2")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=60)
    parser.add_argument("--port", type=int, default=8378)
    parser.add_argument("--beside", type=int, nargs="+", default=[2, 4, 8])
    arguments = parser.parse_args()
    flags = ("--weights", "q8", "--num-threads", "1", "--max-num-seqs", "8")
    llm = LLM(
        *(arguments.model,),
        weights="q8",
        num_threads=1,
        max_num_seqs=8,
        max_num_batched_tokens=64,  # the server's default
        policy="fair_priority",
        enable_prefix_caching=True,
    )
    found: dict[str, Any] = {"model": arguments.model, "weights": "q8", "flood": {}}
    for beside in arguments.beside:  # 2 is the default, 8 bounds nothing here
        server_flags = (*flags, "--rows-beside-urgent", str(beside))
        with serving(arguments.model, arguments.port, *server_flags) as server:
            if beside == arguments.beside[0]:
                found["overhead"] = overhead(server, llm, arguments.rounds)
                print(found["overhead"])
            seconds = asyncio.run(flooded(server, arguments.requests))
            found["flood"][f"rows_beside_urgent={beside}"] = of_flood(seconds)
            print(beside, found["flood"][f"rows_beside_urgent={beside}"])
            server.stop()
    print(store.write("serve_costs", found))


if __name__ == "__main__":
    main()
