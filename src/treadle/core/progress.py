"""The only place that shows progress: bars on a terminal, silence otherwise."""

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    import rich.progress

__all__ = ["Progress", "steps", "track"]

T = TypeVar("T")


class Progress(Protocol):
    """Counts what is done."""

    def advance(self, num_steps: float = 1) -> None:
        """Count `num_steps` as done."""

    def show(self, text: str) -> None:
        """Say beside the bar what is being done."""


class _Silent:
    """Stands in where there is no terminal."""

    def advance(self, num_steps: float = 1) -> None:
        """Ignore the step."""

    def show(self, text: str) -> None:
        """Ignore the text."""


@contextmanager
def steps(title: str, total: float) -> Iterator[Progress]:
    """Show a bar of `total` steps with its rate and the time left, on standard error."""
    if not sys.stderr.isatty():
        yield _Silent()
        return
    from rich import progress
    from rich.console import Console

    columns = (
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.TextColumn("{task.completed:.0f}/{task.total:.0f}"),
        progress.TextColumn("{task.fields[rate]}"),
        progress.TimeElapsedColumn(),
        progress.TimeRemainingColumn(),
        progress.TextColumn("{task.fields[shown]}", markup=False),
    )
    with progress.Progress(*columns, console=Console(stderr=True)) as bars:
        yield _Bar(bars, bars.add_task(title, total=total, rate="", shown=""))


class _Bar:
    """One bar on the terminal."""

    def __init__(self, bars: "rich.progress.Progress", task: "rich.progress.TaskID") -> None:
        self._bars, self._task = bars, task

    def advance(self, num_steps: float = 1) -> None:
        """Move the bar by `num_steps` and show its rate."""
        self._bars.advance(self._task, num_steps)
        task = self._bars.tasks[0]
        if task.elapsed and task.completed:
            self._bars.update(self._task, rate=f"{task.completed / task.elapsed:.3g}/s")

    def show(self, text: str) -> None:
        """Write `text` behind the bar."""
        self._bars.update(self._task, shown=text)


def track(items: Iterable[T], title: str, total: int) -> Iterator[T]:
    """Yield `items`, showing how many of `total` are done."""
    with steps(title, total) as bar:
        for item in items:
            yield item
            bar.advance()
