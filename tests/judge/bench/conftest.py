"""Time that the tests of benchmarks move themselves."""

import pytest

from judge.bench.machines import CLOCK
from treadle.judge.bench import repeated
from treadle.judge.bench.methods import questions


@pytest.fixture
def clock(monkeypatch):
    """Let what is measured last as long as its model says."""
    for module in (repeated, questions):
        monkeypatch.setattr(module, "time", CLOCK)
