"""Processes of jobs: so many at a time, each with its share of the cores, none left behind."""

import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import NamedTuple

from treadle.app.sweep.jobs import CellJob, write_job

__all__ = ["CellPool", "Ended", "stopped_by_signals"]

_GRACE_SECONDS = 5.0
"""What a job gets to end by itself when the sweep is stopped."""
_BEAT_SECONDS = 30.0
_WORKER = "treadle.app.sweep.worker"
_THREADS = (
    *("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS"),
    *("RAYON_NUM_THREADS", "VECLIB_MAXIMUM_THREADS"),
)


class Ended(NamedTuple):
    """A job whose process ended."""

    job: CellJob
    error: str
    """Empty if it is done."""
    seconds: float


class CellPool:
    """Runs jobs; a context, at whose end no process of it is left."""

    def __init__(self, num_jobs: int, fresh: bool = False, num_threads: int = 1) -> None:
        self.num_jobs, self._fresh, self._num_threads = num_jobs, fresh, num_threads
        self._ended: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._running: dict[int, tuple[CellJob, subprocess.Popen[bytes], float]] = {}

    def __enter__(self) -> "CellPool":
        return self

    def __exit__(self, *_: object) -> None:
        for _job, process, _began in self._running.values():
            _signal(process, signal.SIGTERM)
        limit = time.monotonic() + _GRACE_SECONDS
        for _job, process, _began in self._running.values():
            with suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, limit - time.monotonic()))
            _signal(process, signal.SIGKILL)
            process.wait()
        self._running.clear()

    @property
    def running(self) -> list[CellJob]:
        """The jobs that run now."""
        return [job for job, _, _ in self._running.values()]

    def run(self, jobs: Sequence[CellJob]) -> Iterator[CellJob | Ended | None]:
        """Run jobs in their order, yielding each as it begins and as it ends.

        None says that they still run, twice a minute.
        """
        waiting = list(reversed(jobs))
        while waiting or self._running:
            while waiting and len(self._running) < self.num_jobs:
                job = waiting.pop()
                self._start(job)
                yield job
            yield self._wait()

    def _start(self, job: CellJob) -> None:
        slot = next(n for n in range(self.num_jobs) if n not in self._running)
        cores = _share(slot, self._num_threads)
        pinned = cores if self.num_jobs > 1 else []
        file = write_job(job, pinned, self._fresh)
        with job.log.open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", _WORKER, str(file)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env=_environment(len(cores)),
                start_new_session=True,  # Ctrl+C is for the sweep, which ends its jobs itself
            )
        self._running[slot] = (job, process, time.monotonic())
        waits = threading.Thread(target=self._watch, args=(slot, process), daemon=True)
        waits.start()

    def _watch(self, slot: int, process: subprocess.Popen[bytes]) -> None:
        process.wait()
        self._ended.put(slot)

    def _wait(self) -> Ended | None:
        try:
            slot = self._ended.get(timeout=_BEAT_SECONDS)
        except queue.Empty:
            return None
        job, process, began = self._running.pop(slot)
        if process.stdin is not None:
            process.stdin.close()
        _signal(process, signal.SIGKILL)  # what it may have left in its group
        error = "" if job.is_done else job.error or _said(process.returncode, job)
        if error and not job.error:
            with suppress(OSError):  # a full disk: then it is known in this run only
                job.fail(error)
        return Ended(job, error, time.monotonic() - began)


def _share(slot: int, num_threads: int) -> list[int]:
    """Return the cores of a place among jobs: disjoint parts, as long as there are enough.

    How many they are depends on no other job: some sums go by the number of threads.
    """
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    cores = cores or list(range(os.cpu_count() or 1))
    first = slot * num_threads
    return sorted({cores[(first + k) % len(cores)] for k in range(num_threads)})


def _environment(num_threads: int) -> dict[str, str]:
    """Return the environment of a job: a limit that the user set stays one."""
    given = {name: os.environ.get(name, "") for name in _THREADS}
    limits = {
        name: str(min(num_threads, int(text)) if text.isdecimal() and int(text) else num_threads)
        for name, text in given.items()
    }
    return {**os.environ, **limits, "TOKENIZERS_PARALLELISM": "false"}


def _signal(process: subprocess.Popen[bytes], number: int) -> None:
    """Send a signal to a process and all that it started."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)


def _said(status: int, job: CellJob) -> str:
    if status < 0:
        name = signal.Signals(-status).name
        hint = " (out of memory?)" if -status == signal.SIGKILL else ""
        return f"Its process was ended by {name}{hint}; see '{job.log}'."
    return f"Its process ended with status {status} and without its results; see '{job.log}'."


@contextmanager
def stopped_by_signals() -> Iterator[None]:
    """Let SIGTERM stop the block as Ctrl+C does, so that no job is left behind."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may handle signals
        return

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
