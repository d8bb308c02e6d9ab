import time

import pytest

from treadle.core.errors import SettingsError
from treadle.core.timing import PairedTiming, Quartiles, Stopwatch, paired


@pytest.fixture
def clock(monkeypatch):
    """A clock that only moves when told: `clock(wall, cpu)` advances it."""
    now = {"wall": 100.0, "cpu": 10.0}
    monkeypatch.setattr(time, "perf_counter", lambda: now["wall"])
    monkeypatch.setattr(time, "process_time", lambda: now["cpu"])

    def advance(wall, cpu):
        now["wall"] += wall
        now["cpu"] += cpu

    return advance


def test_stopwatch_reads_both_clocks_during_and_after_the_block(clock):
    with Stopwatch() as watch:
        clock(2, 3)
        assert (watch.wall_seconds, watch.cpu_seconds) == (2, 3)
        clock(1, 0.5)
    clock(50, 50)
    assert (watch.wall_seconds, watch.cpu_seconds) == (3, 3.5)


def test_stopwatch_stops_when_the_block_fails(clock):
    watch = Stopwatch()

    def fail():
        with watch:
            clock(1, 1)
            raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        fail()
    clock(9, 9)
    assert watch.wall_seconds == 1


def test_paired_interleaves_alternates_and_warms_up(clock):
    calls = []
    timing = paired(lambda: calls.append("a"), lambda: calls.append("b"), rounds=3, warmup=2)
    assert "".join(calls) == "abab" + "ab" + "ba" + "ab"
    assert len(timing.baseline_wall_seconds) == len(timing.candidate_cpu_seconds) == 3


def test_paired_takes_both_times_of_both(clock):
    timing = paired(lambda: clock(6, 8), lambda: clock(2, 4), rounds=5, warmup=0)
    assert timing.baseline_wall_seconds == (6,) * 5
    assert timing.candidate_cpu_seconds == (4,) * 5
    assert timing.wall_ratio == Quartiles(3, 3, 3)
    assert timing.cpu_ratio == Quartiles(2, 2, 2)


def test_ratios_are_taken_per_round_before_the_median():
    timing = PairedTiming((1, 10, 4), (1, 2, 2), (1, 1, 1), (1, 1, 1))
    assert timing.wall_ratio == Quartiles(1.5, 2, 3.5)


def test_one_round_and_unmeasurably_short_runs_are_allowed(clock):
    timing = paired(lambda: clock(1, 0), lambda: clock(2, 0), rounds=1, warmup=0)
    assert timing.wall_ratio == Quartiles(0.5, 0.5, 0.5)
    assert timing.cpu_ratio == Quartiles(1, 1, 1)


def test_no_rounds_are_refused():
    with pytest.raises(
        SettingsError, match=r"found rounds=0.*expected rounds >= 1.*give at least one"
    ):
        paired(int, int, rounds=0)
