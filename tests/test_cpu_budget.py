"""The hook that counts what tests cost."""

import pytest

from cpu_budget import BUDGETS, DEFAULT_SECONDS, MOST_SECONDS, REFERENCE_SECONDS, Budget, family_of

TOY = """
import time

def work(seconds):
    until = time.process_time() + seconds
    while time.process_time() < until:
        pass

def test_dear(): work(0.4)
def test_cheap(): pass
"""


@pytest.mark.parametrize(
    ("nodeid", "family"),
    [
        ("tests/shrink/prune/test_obs.py::test_x[a/b]", "shrink/prune"),
        ("tests/learn/test_plan_guide.py::test_x", "learn"),
        ("tests/runtime/cache/test_pages.py::test_x", "runtime"),
        ("tests/test_cli.py::test_x", "house"),
    ],
)
def test_whose_a_test_is(nodeid: str, family: str) -> None:
    assert family_of(nodeid) == family


def test_thirty_families_more_have_room() -> None:
    assert sum(BUDGETS.values()) <= MOST_SECONDS
    assert DEFAULT_SECONDS <= 20


def test_who_is_over_is_named_and_slow_machines_are_forgiven() -> None:
    counting = Budget().counting
    counting.add("tests/shrink/sparsify/test_a.py::test_x", 30.0)
    counting.add("tests/core/test_a.py::test_x", 1.0)
    assert counting.over() == {"shrink/sparsify": 30.0}
    assert not counting.over(3)
    counting.works = [2 * REFERENCE_SECONDS]
    assert not counting.over()


@pytest.mark.parametrize("workers", ["0", "2"])
def test_what_a_test_costs_reaches_the_summary(pytester, workers: str, monkeypatch) -> None:
    from pathlib import Path

    import cpu_budget

    monkeypatch.setenv("PYTHONPATH", str(Path(cpu_budget.__file__).parent))
    conftest = "from cpu_budget import Budget\n\n\ndef pytest_configure(config):\n"
    pytester.makeconftest(f"{conftest}    config.pluginmanager.register(Budget(), 'budget')\n")
    (pytester.path / "tests/shrink/toy").mkdir(parents=True)
    (pytester.path / "tests/shrink/toy/test_toy.py").write_text(TOY)
    (pytester.path / "tests/test_other.py").write_text("def test_other(): pass\n")
    said = pytester.runpytest_subprocess("-q", "-n", workers).outlines
    dear = next(line for line in said if line.endswith("test_toy.py::test_dear"))
    assert 0.35 < float(dear.split()[0]) < 5.0
    assert any(line.endswith("  shrink/toy") for line in said)
