"""Sending requests at their times, and noting when the pieces of their answers come."""

import asyncio
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from treadle.core.progress import Progress
from treadle.core.trace import Trace
from treadle.runtime.client import Endpoint, RefusedError

__all__ = ["Load", "Served", "drive"]

_OK = 200


class Served(NamedTuple):
    """One request. Times are seconds since the load began."""

    scheduled_seconds: float
    """When it should be sent. Latencies count from here, so that a client or server that lags does
    not make them look shorter (no coordinated omission)."""
    sent_seconds: float
    first_seconds: float | None
    """When the first piece of the answer came."""
    last_seconds: float | None
    prompt_tokens: int
    cached_tokens: int
    """Of the prompt, found in the server's prefix cache, where it tells."""
    answer_tokens: int
    status: int
    """HTTP status; 0 where the connection broke or took too long."""
    reason: str = ""


class Load(NamedTuple):
    """What is sent, and how."""

    model: str
    trace: Trace
    prompt: Callable[[int], list[int] | str]
    num_clients: int | None
    """Requests on their way at once, sent as soon as one is free; None sends each at its time."""
    options: dict[str, Any]  # Any: JSON values
    """Further fields of the request."""


async def drive(endpoint: Endpoint, load: Load, bar: Progress) -> tuple[list[Served], bool]:
    """Send all requests; return what became of each, and whether all were sent and awaited.

    A cancellation (Ctrl+C) leaves the rest: what is on its way is dropped.
    """
    found: list[Served] = []
    run = _Run(endpoint, load, found, bar)
    try:
        await (run.open_loop() if load.num_clients is None else run.closed_loop(load.num_clients))
    except asyncio.CancelledError:
        return found, False
    return found, True


class _Run:
    def __init__(self, endpoint: Endpoint, load: Load, found: list[Served], bar: Progress) -> None:
        self._endpoint, self._load, self._found, self._bar = endpoint, load, found, bar
        self._started = time.perf_counter()

    def _now(self) -> float:
        return time.perf_counter() - self._started

    async def open_loop(self) -> None:
        """Send each request at its time, whatever became of those before."""
        async with asyncio.TaskGroup() as tasks:
            for place, scheduled in enumerate(self._load.trace.arrival_seconds.tolist()):
                body = self._body(place)  # made before its time
                await asyncio.sleep(max(0.0, scheduled - self._now()))
                tasks.create_task(self._ask(body, place, scheduled))

    async def closed_loop(self, num_clients: int) -> None:
        """Let each of `num_clients` send a request as soon as its last one is answered."""
        places = iter(range(self._load.trace.num_requests))

        async def client() -> None:
            own = asyncio.current_task()
            for place in places:
                if own is not None and own.cancelling():
                    break  # a library may take a cancellation for its own, and go on
                body = self._body(place)
                await self._ask(body, place, self._now())

        async with asyncio.TaskGroup() as tasks:
            for _ in range(num_clients):
                tasks.create_task(client())

    def _body(self, place: int) -> dict[str, Any]:  # Any: JSON values
        return {
            "model": self._load.model,
            "prompt": self._load.prompt(place),
            "max_tokens": int(self._load.trace.answer_tokens[place]),
            "temperature": 0,
            **self._load.options,
        }

    async def _ask(
        self,
        body: dict[str, Any],
        place: int,
        scheduled: float,  # Any: JSON
    ) -> None:
        sent, first, last = self._now(), None, None
        usage: dict[str, Any] = {}  # Any: JSON values
        status, reason = _OK, ""
        try:
            async for chunk in self._endpoint.completion(body):
                usage = chunk.get("usage") or usage
                if chunk.get("choices"):
                    last = self._now()
                    first = last if first is None else first
        except RefusedError as error:
            status, reason = error.status, str(error)
        self._bar.advance()
        asked = int(self._load.trace.prompt_tokens[place])
        details = usage.get("prompt_tokens_details") or {}
        self._found.append(
            Served(
                scheduled,
                sent,
                first,
                last,
                int(usage.get("prompt_tokens") or asked),
                int(details.get("cached_tokens") or 0),
                int(usage.get("completion_tokens") or 0),
                status,
                reason,
            )
        )
