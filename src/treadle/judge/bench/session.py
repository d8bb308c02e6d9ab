"""One load on one server: prepared, driven, and written down."""

import asyncio
import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from treadle.core.errors import SettingsError
from treadle.core.progress import steps
from treadle.core.result import Input, Result, digest
from treadle.core.run import recorded
from treadle.core.trace import Trace, write_trace
from treadle.judge.bench.drive import Load, Served, drive
from treadle.judge.bench.prompts import BenchPrompts, Pool, find_pool
from treadle.judge.bench.served import LatencyObjective, figures, measurements, notes
from treadle.runtime.client import Endpoint, ServedName

__all__ = ["Session", "file_hash"]

_REQUESTS, _TRACE = "requests.jsonl", "trace.jsonl"


def file_hash(path: Path) -> str:
    """Return the sha256 of a file; empty where there is none (reading it says so)."""
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""


class _Outcome(NamedTuple):
    model: ServedName
    pool: Pool
    sent: Trace
    served: list[Served]
    is_whole: bool
    num_shortened: int


class Session(NamedTuple):
    """Which server is asked, and how; the fields are the parameters of `bench load`."""

    action: str
    address: str
    out: Path
    objective: LatencyObjective
    model: str | None
    api_key: str | None
    ignore_eos: bool
    num_warm_ups: int
    timeout_seconds: float
    seed: int
    overwrite: bool
    shorten: bool = False

    def run(
        self,
        trace: Trace,
        settings: dict[str, Any],  # Any: JSON values
        source: Input | None = None,
        *,
        scale: float = 1.0,
        num_clients: int | None = None,
    ) -> Result:
        """Send the requests of `trace`, their lengths times `scale`, and write what came of it."""
        out = Path(self.out)
        asked = {
            **settings,
            "model": self.model,
            "ignore_eos": self.ignore_eos,
            "num_warm_ups": self.num_warm_ups,
            **self.objective._asdict(),
        }
        with recorded(
            "bench",
            settings=asked,
            action=self.action,
            seed=self.seed,
            out=out,
            overwrite=self.overwrite,
        ) as run:
            server = {"address": self.address, "model": self.model}
            run.read("server", self.address, digest(server), "server")
            run.inputs += [] if source is None else [source]
            found = asyncio.run(self._drive(trace.shorter(scale), num_clients))
            if not found.served:
                raise SettingsError(
                    "The load was stopped before any request was answered; run again."
                )
            run.measurements += measurements(found.served, self.objective, self.seed)
            run.figures += figures(found.served)
            run.notes += [*_remarks(found, trace), *notes(found.served, trace.blocks is not None)]
            out.mkdir(parents=True, exist_ok=True)
            _write_requests(found.served, out / _REQUESTS)
            if scale == 1 and source is not None:
                write_trace(found.sent, out / _TRACE)
        return run.result

    async def _drive(self, trace: Trace, num_clients: int | None) -> _Outcome:
        async with Endpoint(self.address, self.api_key, self.timeout_seconds) as endpoint:
            model = _chosen(await endpoint.models(), self.model, self.address)
            sent, num_shortened = self._fitting(trace, model)
            pool = await find_pool(endpoint, model.name)
            prompts = BenchPrompts(sent, pool, self.seed)
            options: dict[str, Any] = {"ignore_eos": True} if self.ignore_eos else {}  # Any: JSON
            load = Load(model.name, sent, prompts, num_clients, options)
            await self._warm_up(endpoint, load, pool)
            with steps("requests", sent.num_requests) as bar:
                served, is_whole = await drive(endpoint, load, bar)
        return _Outcome(model, pool, sent, served, is_whole, num_shortened)

    async def _warm_up(self, endpoint: Endpoint, load: Load, pool: Pool) -> None:
        count = min(self.num_warm_ups, load.trace.num_requests)
        if not count:
            return
        first = load.trace.pick(np.arange(count))._replace(blocks=None)
        warm = load._replace(
            trace=first,
            prompt=BenchPrompts(
                first, pool, self.seed + 1
            ),  # so that nothing is found in the cache
            num_clients=1,
        )
        with steps("warm-up", count) as bar:
            served, is_whole = await drive(endpoint, warm, bar)
        if not is_whole:
            raise KeyboardInterrupt
        if failed := [one for one in served if one.reason]:
            raise SettingsError(f"A request to warm up had no answer. {failed[0].reason}")

    def _fitting(self, trace: Trace, model: ServedName) -> tuple[Trace, int]:
        """Return the trace with requests that fit into the context, and how many were cut."""
        most = model.max_length
        if most is None:
            return trace, 0
        room = most - trace.answer_tokens
        is_long = trace.prompt_tokens > room
        num_long = int(is_long.sum())
        if num_long and (not self.shorten or int(room.min()) < 1):
            longest = int((trace.prompt_tokens + trace.answer_tokens).max())
            raise SettingsError(
                f"{num_long} of {trace.num_requests} requests have more tokens than the context of "
                f"'{model.name}' holds ({longest} against {most}); ask for shorter ones, or give a "
                f"replay --scale {most / longest:.2g} (all lengths) or --shorten (their prompts)."
            )
        return trace._replace(prompt_tokens=np.minimum(trace.prompt_tokens, room)), num_long


def _chosen(listed: Sequence[ServedName], name: str | None, address: str) -> ServedName:
    if not listed:
        raise SettingsError(f"The server at {address} has no models; start one with one.")
    for one in listed:
        if name in (None, one.name):
            return one
    names = ", ".join(one.name for one in listed)
    raise SettingsError(f"The server at {address} has no model '{name}'; choose one of: {names}.")


def _remarks(found: _Outcome, trace: Trace) -> list[str]:
    said = [f"Answered by the model '{found.model.name}'."]
    if not found.is_whole:
        said.append(
            f"Stopped after {len(found.served)} of {found.sent.num_requests} requests; those on "
            f"their way then are left out."
        )
    if not found.pool.is_exact:
        said.append(
            f"The server shows no tokens (/tokenize): prompts are words, counted as "
            f"{found.pool.tokens_per_entry:.2f} tokens each."
        )
    if found.num_shortened:
        said.append(f"{found.num_shortened} prompts were cut to fit into the context.")
    if trace.num_failed:
        said.append(f"{trace.num_failed} requests of the trace had no answer and are left out.")
    return said


def _write_requests(served: Sequence[Served], path: Path) -> None:
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    with beside.open("w") as file:
        for one in sorted(served, key=lambda one: one.scheduled_seconds):
            file.write(json.dumps(one._asdict()) + "\n")
    os.replace(beside, path)
