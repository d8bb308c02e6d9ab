"""What several runs, or one, say of a difference."""

from typing import Any

import numpy as np
import pytest
from scipy import stats

from treadle.app.sweep.scores import Pair, Score, compare
from treadle.core.intervals import student_mean
from treadle.core.result import Measurement, Result


def result(**fields: Any) -> Result:
    shared = {
        **{"seed": 0, "inputs": [], "started": "", "versions": {}, "hardware": {}, "settings": {}},
        **{"seconds": 2.0, "cpu_seconds": 1.5, "peak_memory_bytes": 1 << 20},
    }
    return Result(**{"fingerprint": "", "verb": "evaluate", **shared, **fields})


def test_students_interval():
    for values in ([1.0, 2.0], [0.5, 0.1, 0.9], list(np.arange(12.0)), list(np.arange(40.0))):
        mean, error = np.mean(values), stats.sem(values)
        expected = stats.t.interval(0.95, len(values) - 1, loc=mean, scale=error)
        assert student_mean(values) == pytest.approx(expected, rel=1e-4)


def paired_of(
    values: list[tuple[float, np.ndarray]], better: str = "lower", groups: str = ""
) -> Any:
    """Compare runs of a score and its examples with a baseline of zeros."""
    measure = Measurement(name="score", value=0.0, better=better)
    nll = Measurement(name="nll", value=0.0, better="lower")

    def chain(value: float, examples: np.ndarray) -> dict[str, Result]:
        entries = [measure.model_copy(update={"value": value}), nll]
        return {"x": result(method="m", measurements=entries, samples={"nll": list(examples)})}

    base = chain(0.0, np.zeros(len(values[0][1])))
    pairs = [
        Pair(chain(value, examples), base, group)
        for (value, examples), group in zip(values, groups or [""] * len(values), strict=True)
    ]
    return compare(Score("x", measure, "score"), pairs)


def test_of_several_runs_only_the_runs_decide():
    sure = np.linspace(0.9, 1.1, 16)
    two = paired_of([(0.1, sure), (1.9, sure + 0.01)])
    assert two.by_example.low > 0, "the examples alone would be sure"
    assert (two.verdict, two.is_by_example) == ("no", False)
    assert paired_of([(1.0, sure), (1.1, sure + 0.01)]).verdict == "worse"
    assert paired_of([(1.0, sure), (1.0, sure + 0.01)]).verdict == "", "equal by chance"
    assert paired_of([(1.0, sure), (1.0, sure)]).verdict == "worse", "seeds change nothing"


def test_differences_of_nothing_are_seldom_found():
    generator = np.random.Generator(np.random.Philox(3))
    for runs in (1, 2, 3, 5):
        found = 0
        for _ in range(200):
            between = generator.normal(0, 0.2, (runs, 1)) * (runs > 1)
            table = between + generator.normal(0, 0.1, (runs, 64))
            found += paired_of([(float(row.mean()), row) for row in table]).verdict != "no"
        assert found <= 22, f"{runs} runs: more than 5 % by far"


def test_one_run_is_judged_by_its_examples_and_their_own_direction():
    sure = np.linspace(0.9, 1.1, 16)
    assert paired_of([(1.0, sure)]).verdict == "worse"
    assert paired_of([(1.0, sure)]).is_by_example
    assert paired_of([(-1.0, -sure)]).verdict == "better"
    assert paired_of([(1.0, -sure)]).verdict == "no", "score and examples contradict each other"
    assert paired_of([(1.0, -sure)], "higher").verdict == "better"
    assert paired_of([(1.0, sure[:1])]).verdict == "", "one example"


def test_seeds_of_one_model_are_no_independent_runs():
    """Two models with three seeds each are two values, not six."""
    values = [(1.0 + seed / 100 + model, np.ones(4)) for model in (0, 2) for seed in range(3)]
    assert paired_of(values).verdict == "worse"
    grouped = paired_of(values, groups="aaabbb")
    assert grouped.verdict == "no"
    assert grouped.difference.value == pytest.approx(2.01)
    assert (grouped.difference.low, grouped.difference.high) == pytest.approx(
        student_mean([1.01, 3.01])
    )
    assert grouped.difference.note == "of 2 inputs"
