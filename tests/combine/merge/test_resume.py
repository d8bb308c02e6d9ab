"""A killed merge goes on where it stopped, and ends in the same bytes."""

import os
import signal

import pytest

from combine.merge.models import bytes_of, run
from treadle.combine.merge import run as runs
from treadle.core.result import read_result


@pytest.mark.parametrize("method", ["linear", "ties", "dare_ties", "model_stock"])
def test_a_killed_merge_ends_in_the_same_bytes(family, method, tmp_path, monkeypatch):
    base = {} if method == "linear" else {"base": family.base}
    run(family.experts, tmp_path / "whole", method, workers=1, **base)
    monkeypatch.setattr(runs, "_SYNC_BYTES", 20_000)
    pid = os.fork()
    if pid == 0:
        merged = []
        real = runs._merge

        def killed(job, writer):
            if len(merged) == 12:
                os.kill(os.getpid(), signal.SIGKILL)
            merged.append(job)
            real(job, writer)

        runs._merge = killed
        run(family.experts, tmp_path / "out", method, workers=1, **base)
        os._exit(7)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL
    assert not (tmp_path / "out").exists()
    result = run(family.experts, tmp_path / "out", method, workers=2, **base)
    assert any("Resumed" in note for note in result.notes)
    assert bytes_of(tmp_path / "out") == bytes_of(tmp_path / "whole")
    assert read_result(tmp_path / "out") == result
    assert {p.name for p in tmp_path.iterdir()} == {"out", "whole"}


@pytest.mark.parametrize("workers", [1, 2])
def test_an_interrupted_merge_keeps_what_is_finished(family, workers, tmp_path, monkeypatch):
    run(family.experts, tmp_path / "whole", "linear", workers=1)
    advanced = []

    class Bar:
        def advance(self, num_bytes: int) -> None:
            advanced.append(num_bytes)
            if len(advanced) == 5:
                raise KeyboardInterrupt

    merge_jobs = runs.merge_jobs
    monkeypatch.setattr(
        runs, "merge_jobs", lambda plan, writer, count, bar: merge_jobs(plan, writer, count, Bar())
    )
    with pytest.raises(KeyboardInterrupt):
        run(family.experts, tmp_path / "out", "linear", workers=workers)
    monkeypatch.setattr(runs, "merge_jobs", merge_jobs)
    result = run(family.experts, tmp_path / "out", "linear", workers=workers)
    (note,) = [note for note in result.notes if "Resumed" in note]
    assert int(note.split("had written ")[1].split(" ")[0]) >= 5
    assert bytes_of(tmp_path / "out") == bytes_of(tmp_path / "whole")


def test_small_outputs_are_kept_every_few_seconds(family, tmp_path, monkeypatch):
    kept = []
    real = runs._keep

    def keep(written, writer):
        kept.append(len(written))
        real(written, writer)

    monkeypatch.setattr(runs, "_keep", keep)
    run(family.experts, tmp_path / "a", "linear", workers=1)
    assert len(kept) == 1, "a quick merge is not slowed down"
    monkeypatch.setattr(runs, "_SYNC_SECONDS", 0.0)
    run(family.experts, tmp_path / "b", "linear", workers=1)
    assert len(kept) > 10
