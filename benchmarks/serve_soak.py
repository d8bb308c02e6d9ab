"""A long load on the server, and what operators fear: leaks, clients that leave, stops and kills.

The Azure trace, thinned and its lengths scaled, for ten minutes with the server's memory watched;
then 100 clients that leave in the middle of a stream; SIGTERM under load; SIGKILL and restart.

Usage: python benchmarks/serve_soak.py --trace azure_llm_code.csv [--seconds 600]
"""

import argparse
import asyncio
import contextlib
import hashlib
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import store
from servers import Server, ask, poll_idle, prompt, serving

from treadle.judge.bench import bench_replay
from treadle.runtime.client import Endpoint

SAMPLE_SECONDS = 5.0
CACHE_BYTES = "1GiB"


def watch(server: Server, ended: threading.Event) -> list[dict[str, float]]:
    """Sample memory and queue until `ended` is set."""
    found, started = [], time.perf_counter()
    while not ended.wait(SAMPLE_SECONDS):
        engine = server.get("/status")["engines"][0]
        found.append(
            {
                "seconds": time.perf_counter() - started,
                "resident_bytes": server.resident_bytes(),
                "running": engine["running"],
                "waiting": engine["waiting"],
            }
        )
    return found


def soak(server: Server, arguments: argparse.Namespace) -> dict[str, Any]:
    ended, samples = threading.Event(), []
    thread = threading.Thread(target=lambda: samples.extend(watch(server, ended)))
    thread.start()
    with tempfile.TemporaryDirectory() as work:
        result = bench_replay(
            server.url,
            arguments.trace,
            Path(work) / "out",
            thin=arguments.thin,
            scale=arguments.scale,
            seconds=arguments.seconds,
        )
    ended.set()
    thread.join()
    idle_seconds = asyncio.run(poll_idle(server))
    times = np.array([sample["seconds"] for sample in samples])
    resident = np.array([sample["resident_bytes"] for sample in samples])
    later = times > times[-1] / 3
    slope = np.polyfit(times[later], resident[later], 1)[0]
    return {
        "measurements": {m.name: [m.value, m.low, m.high] for m in result.measurements},
        "notes": result.notes,
        "idle_after_seconds": idle_seconds,
        "resident_bytes": {
            "at_a_third": int(resident[later][0]),
            "at_the_end": int(resident[-1]),
            "slope_bytes_per_minute_after_a_third": float(slope * 60),
        },
        "most_running": max(sample["running"] for sample in samples),
        "most_waiting": max(sample["waiting"] for sample in samples),
        "samples": samples,
    }


async def leave(server: Server, count: int) -> dict[str, Any]:
    """Let `count` clients leave after their first piece; return when all pages are free."""

    async def client(endpoint: Endpoint, number: int) -> None:
        body = {"model": "m", "prompt": prompt(number, 64), "max_tokens": 400, "ignore_eos": True}
        pieces = endpoint.completion(body)
        async for _ in pieces:
            break
        await pieces.aclose()

    async with Endpoint(server.url) as endpoint:
        await asyncio.gather(*(client(endpoint, number) for number in range(count)))
    return {"clients": count, "pages_free_after_seconds": await poll_idle(server)}


async def drain(server: Server, count: int) -> dict[str, Any]:
    """Send SIGTERM while `count` requests are inside and others come."""
    late: list[int] = []
    async with Endpoint(server.url) as endpoint:
        inside = [asyncio.create_task(ask(endpoint, prompt(k, 64), 64)) for k in range(count)]
        while (await asyncio.to_thread(server.get, "/status"))["engines"][0]["running"] < 4:
            await asyncio.sleep(0.02)
        started = time.perf_counter()
        server.process.terminate()
        while server.process.poll() is None:
            late.append((await ask(endpoint, prompt(999, 8), 1))["status"])
            await asyncio.sleep(0.2)
        answers = await asyncio.gather(*inside)
    return {
        "inside": count,
        "whole_answers": sum(a["status"] == 200 and a["tokens"] == 64 for a in answers),
        "refused_meanwhile": {str(status): late.count(status) for status in sorted(set(late))},
        "drained_in_seconds": time.perf_counter() - started,
        "exit_status": server.process.returncode,
    }


async def kill(server: Server) -> dict[str, Any]:
    """Kill the server under load and start it again."""
    async with Endpoint(server.url) as endpoint:
        inside = [asyncio.create_task(ask(endpoint, prompt(k, 64), 64)) for k in range(8)]
        await asyncio.sleep(1.0)
        server.kill()
        lost = await asyncio.gather(*inside)
        seconds = await asyncio.to_thread(server.start)
        answer = await ask(endpoint, prompt(1, 64), 16)
    return {
        "clients_told": sum(one["status"] != 200 for one in lost),
        "restarted_in_seconds": seconds,
        "first_answer_tokens": answer["tokens"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trace", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--thin", type=float, default=0.4)
    parser.add_argument("--scale", type=float, default=0.2)
    parser.add_argument("--model", default="packaged:smollm2")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--port", type=int, default=8377)
    arguments = parser.parse_args()
    # A cache that is full after two minutes: from then on, memory that grows is memory that leaks.
    flags = ("--weights", "q8", "--num-threads", str(arguments.threads))
    flags += ("--cache-bytes", CACHE_BYTES)
    found: dict[str, Any] = {
        "trace_sha256": hashlib.sha256(arguments.trace.read_bytes()).hexdigest(),
        "model": arguments.model,
    }
    with serving(arguments.model, arguments.port, *flags) as server:
        found["soak"] = soak(server, arguments)
        found["clients_that_leave"] = asyncio.run(leave(server, 100))
        found["sigterm_under_load"] = asyncio.run(drain(server, 40))
        server.start()
        found["sigkill_under_load"] = asyncio.run(kill(server))
        with contextlib.suppress(ProcessLookupError):
            found["last_exit_status"] = server.stop()
    for part, content in found.items():
        if isinstance(content, dict):
            content = {key: value for key, value in content.items() if key != "samples"}
        print(part, content)
    print(store.write("serve_soak", found))


if __name__ == "__main__":
    main()
