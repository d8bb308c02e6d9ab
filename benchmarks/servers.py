"""A `treadle serve` process for the benchmarks of the server."""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from typing import Any

from treadle.runtime.client import Endpoint, RefusedError

STARTUP_SECONDS = 300


class Server:
    """One process; `restart` starts it again at the same port."""

    def __init__(self, model: str, port: int, *flags: str) -> None:
        self.url = f"http://127.0.0.1:{port}"
        main = "import sys; from treadle.cli import main; sys.exit(main())"
        self._command = [
            *(sys.executable, "-c", main, "serve", f"m={model}", "--port", str(port)),
            *flags,
        ]
        self.start()

    def start(self) -> float:
        """Start it and return the seconds until it answers."""
        started = time.perf_counter()
        self.process = subprocess.Popen(
            self._command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        while time.perf_counter() - started < STARTUP_SECONDS:
            if self.process.poll() is not None:
                raise SystemExit(f"The server ended with status {self.process.returncode}.")
            with contextlib.suppress(OSError):
                if self.get("/health")["status"] == "ok":
                    return time.perf_counter() - started
            time.sleep(0.05)
        raise SystemExit("The server did not start.")

    def get(self, path: str) -> dict[str, Any]:
        """Return the JSON at `path`."""
        with urllib.request.urlopen(self.url + path, timeout=60) as answer:
            return json.loads(answer.read())

    def resident_bytes(self) -> int:
        """Return the memory that it holds."""
        with open(f"/proc/{self.process.pid}/status") as file:
            (line,) = [line for line in file if line.startswith("VmRSS:")]
        return int(line.split()[1]) * 1024

    def stop(self) -> int:
        """End it as an operator does and return its status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(120)

    def kill(self) -> None:
        """End it at once."""
        self.process.kill()
        self.process.wait()


@contextlib.contextmanager
def serving(model: str, port: int, *flags: str) -> Iterator[Server]:
    server = Server(model, port, *flags)
    try:
        yield server
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(server.process.pid, signal.SIGKILL)
        server.process.wait()


async def ask(
    endpoint: Endpoint, prompt: list[int], num_new: int, **options: Any
) -> dict[str, Any]:
    """Return when the first and the last piece came, how many tokens, and the status."""
    body = {"model": "m", "prompt": prompt, "max_tokens": num_new, "temperature": 0}
    started, first, last, usage = time.perf_counter(), None, None, {}
    try:
        async for chunk in endpoint.completion({**body, "ignore_eos": True, **options}):
            usage = chunk.get("usage") or usage
            if chunk.get("choices"):
                last = time.perf_counter()
                first = first or last
    except RefusedError as error:
        return {"status": error.status, "reason": str(error)}
    return {
        "status": 200,
        "first": (first or started) - started,
        "seconds": (last or started) - started,
        "tokens": usage.get("completion_tokens", 0),
    }


def prompt(number: int, length: int) -> list[int]:
    """Return a prompt that shares no start with those of other numbers."""
    return [100 + (number * 37 + place * 11) % 4000 for place in range(length)]


async def poll_idle(server: Server, seconds: float = 30.0) -> float:
    """Return the seconds until nothing runs, waits or holds pages."""
    started = time.perf_counter()
    while time.perf_counter() - started < seconds:
        found = (await asyncio.to_thread(server.get, "/status"))["engines"][0]
        if not (found["running"] or found["waiting"] or found["held_fraction"]):
            return time.perf_counter() - started
        await asyncio.sleep(0.05)
    raise SystemExit(f"Something is stuck: {found}")
