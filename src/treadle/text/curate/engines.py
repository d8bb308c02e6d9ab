"""What runs the work on units and parts: threads of this process, or a Ray cluster.

The work and its pieces are the same; only where they run differs, so that survivors cannot.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal, Protocol, TypeVar

from treadle.core import hardware
from treadle.core.errors import SettingsError, TreadleError

__all__ = ["EngineName", "WorkEngine", "choose_engine"]

Item = TypeVar("Item")
EngineName = Literal["threads", "ray"]
_AHEAD = 4
"""Pieces of work for each processor that a cluster is given before the first ones are done."""


class WorkEngine(Protocol):
    """Runs the same work on many pieces."""

    def run(self, work: Callable[[Item], None], items: Iterable[Item]) -> Iterator[None]:
        """Yield once for every piece that is done, in their order."""
        ...


def choose_engine(name: EngineName, workers: int | None) -> WorkEngine:
    """Return the engine of a name.

    Raises:
        SettingsError: The number of workers is none.
    """
    if workers is not None and workers < 1:
        raise SettingsError(f"workers = {workers}; give at least 1.")
    if name == "ray":
        return _Ray(workers)
    return _Threads(workers or hardware.usable_cores())


class _Threads:
    """Threads; kernels and readers release the interpreter's lock."""

    def __init__(self, workers: int) -> None:
        self._workers = workers

    def run(self, work: Callable[[Item], None], items: Iterable[Item]) -> Iterator[None]:
        """Yield once for every piece that is done."""
        with ThreadPoolExecutor(self._workers) as pool:
            yield from pool.map(work, items)


class _Ray:
    """Tasks on a Ray cluster; all nodes see the source and the output under the same paths."""

    def __init__(self, workers: int | None) -> None:
        import ray  # an extra

        self._ray: Any = ray  # Any: the extra is not there for the type checker
        if not ray.is_initialized():
            # An address in $RAY_ADDRESS is joined; else a cluster starts in this machine.
            ray.init(log_to_driver=False, include_dashboard=False, logging_level="warning")
        self._limit = workers or max(1, int(ray.cluster_resources().get("CPU", 1))) * _AHEAD

    def run(self, work: Callable[[Item], None], items: Iterable[Item]) -> Iterator[None]:
        """Yield once for every piece that is done, so many under way at a time."""
        remote = self._ray.remote(_call)
        held = self._ray.put(work)
        under_way: deque[Any] = deque()  # Any: Ray's references
        for item in items:
            while len(under_way) >= self._limit:
                self._wait(under_way.popleft())
                yield
            under_way.append(remote.remote(held, item))
        while under_way:
            self._wait(under_way.popleft())
            yield

    def _wait(self, reference: Any) -> None:  # Any: Ray's reference
        try:
            self._ray.get(reference)
        except self._ray.exceptions.RayTaskError as error:
            # Ours say what to mend; Ray's wrap them in the traceback of another process.
            if isinstance(error.cause, TreadleError):
                raise error.cause from None
            raise


def _call(work: Callable[[Item], None], item: Item) -> None:
    work(item)
