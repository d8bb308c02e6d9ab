"""Time that the tests of benchmarks move themselves."""

import pytest

from judge.bench.machines import CLOCK
from treadle.judge.bench import repeated


@pytest.fixture
def clock(monkeypatch):
    """Let what is measured last as long as its model says."""
    monkeypatch.setattr(repeated, "time", CLOCK)
