"""The only place that shows progress: bars on a terminal, silence otherwise."""

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

__all__ = ["steps", "track"]

T = TypeVar("T")


class _Silent:
    """Counts nothing; stands in where there is no terminal."""

    def advance(self, num_steps: float = 1) -> None:
        """Ignore the step."""


class _Bar:
    """One bar on the terminal."""

    def __init__(self, title: str, total: float) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed:.0f}/{task.total:.0f}"),
            TextColumn("{task.speed:.2f}/s" if total > 1e9 else ""),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
        )
        self._progress.start()
        self._task = self._progress.add_task(title, total=total)

    def advance(self, num_steps: float = 1) -> None:
        """Move the bar by `num_steps`."""
        self._progress.advance(self._task, num_steps)

    def stop(self) -> None:
        """Take the bar off the terminal, leaving its last state."""
        self._progress.stop()


@contextmanager
def steps(title: str, total: float) -> Iterator[_Bar | _Silent]:
    """Show a bar of `total` steps on standard error while the block runs."""
    if not sys.stderr.isatty():
        yield _Silent()
        return
    bar = _Bar(title, total)
    try:
        yield bar
    finally:
        bar.stop()


def track(items: Iterable[T], title: str, total: int) -> Iterator[T]:
    """Yield `items`, showing how many of `total` are done."""
    with steps(title, total) as bar:
        for item in items:
            yield item
            bar.advance()
