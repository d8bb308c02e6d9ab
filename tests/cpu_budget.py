"""What a family's tests may cost: CPU seconds, counted test by test, and named where they are over.

Processor time is the process's own, with all its threads, and that of children that were waited
for. It is measured in seconds of the reference machine (an AMD EPYC of 2026): a fixed piece of work
is timed beside the tests, so that slower machines do not look like slower tests. A family that is
over its budget is named in the summary; only three times as much fails the run, because what else a
machine does costs processor time too.
"""

import os
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

DEFAULT_SECONDS = 20
BUDGETS = {
    "app": 15,
    "combine/merge": 45,
    "core": 10,
    "deploy/serve": 20,
    "house": 50,
    "judge/evaluate": 10,
    "learn/plan": 30,
    "learn/tune": 25,
    "model": 45,
    "native": 20,
    "page": 10,
    "runtime": 75,
    "shrink/prune": 30,
    "text/curate": 30,
}
"""Of the families that were measured, with some room; a new one gets DEFAULT_SECONDS."""
MOST_SECONDS = 415
FAR_OVER = 3
WINGS = ("text", "learn", "shrink", "combine", "deploy", "judge")
SLOWEST = 10
REFERENCE_SECONDS = 0.031
"""Processor time of `speed`'s work on the reference machine."""
_EVERY_SECONDS = 20.0


def cpu_seconds() -> float:
    """Return what this process and its ended children have used."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def work_seconds() -> float:
    """Return the processor time of a fixed piece of work: a loop of Python, and a sort."""
    numbers = np.random.default_rng(0).random(600_000)
    begun = time.process_time()
    total = 0
    for number in range(1_200_000):
        total += number & 3
    np.sort(numbers)
    return time.process_time() - begun


def family_of(nodeid: str) -> str:
    """Return whose test it is: a family of a wing, a floor, or the whole house."""
    parts = Path(nodeid.partition("::")[0]).parts
    if parts[0] == "tests":
        parts = parts[1:]
    if len(parts) == 1:
        return "house"
    return "/".join(parts[:2]) if parts[0] in WINGS and len(parts) > 2 else parts[0]


def budget_of(family: str) -> int:
    return BUDGETS.get(family, DEFAULT_SECONDS)


class Counting:
    """Adds up what the tests of this run cost."""

    def __init__(self) -> None:
        self.families: Counter[str] = Counter()
        self.tests: Counter[str] = Counter()
        self.works: list[float] = []

    def add(self, nodeid: str, seconds: float) -> None:
        self.families[family_of(nodeid)] += seconds
        self.tests[nodeid] += seconds

    @property
    def slowness(self) -> float:
        """How much longer this machine takes than the reference machine."""
        return float(np.median(self.works)) / REFERENCE_SECONDS if self.works else 1.0

    def over(self, times: float = 1.0) -> dict[str, float]:
        """Return the families that cost more than their budget, in seconds of the reference."""
        found = {family: seconds / self.slowness for family, seconds in self.families.items()}
        return {
            family: seconds
            for family, seconds in found.items()
            if seconds > times * budget_of(family)
        }


class Budget:
    """The hooks; workers of pytest-xdist measure, and their reports carry it to the controller."""

    def __init__(self) -> None:
        self.counting = Counting()
        self._last_work = -_EVERY_SECONDS

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        self._mark = cpu_seconds()
        yield

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item) -> Iterator[None]:
        outcome = yield
        report = outcome.get_result()
        now = cpu_seconds()
        report.cpu_seconds, self._mark = now - self._mark, now
        if report.when == "teardown" and time.monotonic() > self._last_work + _EVERY_SECONDS:
            report.work_seconds = work_seconds()
            self._last_work = time.monotonic()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.counting.add(report.nodeid, getattr(report, "cpu_seconds", 0.0))
        if (seconds := getattr(report, "work_seconds", None)) is not None:
            self.counting.works.append(seconds)

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        counted = self.counting
        if len(counted.families) < 2 and not counted.over():
            return
        write = terminalreporter.write_line
        write("")
        write(
            f"CPU seconds by family, of {sum(counted.families.values()):.0f} (this machine takes "
            f"{counted.slowness:.2f} x the reference machine's time; budgets are in the latter's):"
        )
        over = counted.over()
        for family, seconds in counted.families.most_common():
            note = f"  OVER ITS BUDGET of {budget_of(family)}" if family in over else ""
            write(f"{seconds:8.1f}  {family}{note}")
        write(f"the {SLOWEST} slowest tests:")
        for nodeid, seconds in counted.tests.most_common(SLOWEST):
            write(f"{seconds:8.1f}  {nodeid}")

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        if exitstatus == 0 and self.counting.over(FAR_OVER):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
