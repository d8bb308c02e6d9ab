"""Sweeps as they run: resumed after kill -9, in shards, with cells that fail, never two at once.

Most cells here draw samples of a small corpus, which needs no torch: half a second a process.
"""

import errno
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.text.curate import corpora

import treadle
from treadle.app.sweep import sweep, worker
from treadle.app.sweep.board import Board
from treadle.app.sweep.contents import Contents
from treadle.app.sweep.document import load_document
from treadle.app.sweep.jobs import CellJob, make_jobs
from treadle.app.sweep.pool import CellPool, _environment, _share
from treadle.cli.program import _say
from treadle.core.errors import CapacityError, DataError, SettingsError, TreadleError
from treadle.core.result import read_result
from treadle.recipe import Recipe, parse_step

FILE = """
name: Samples
artefacts: {{corpus: {corpus}}}
steps:
  - curate: {{method: sample, data: corpus, out: drawn}}
over:
  curate.fraction: [0.3, 0.6]
  curate.seed: [0, 1]
scores: [kept]
baseline: {{curate.fraction: 0.6}}
"""
ROOT = Path(__file__).parents[2]
TABLES = ("table.csv", "table.md", "table.json")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    rows = [{"id": f"{n}", "text": f"text number {n}"} for n in range(60)]
    return corpora.write_lines(tmp_path_factory.mktemp("corpus") / "corpus.jsonl", rows)


@pytest.fixture(scope="module")
def file(tmp_path_factory, corpus) -> Path:
    path = tmp_path_factory.mktemp("sweep") / "sweep.yaml"
    path.write_text(FILE.format(corpus=corpus))
    return path


@pytest.fixture(scope="module")
def whole(tmp_path_factory, file) -> Path:
    """Return the folder of an unbroken run."""
    out = tmp_path_factory.mktemp("whole") / "out"
    assert len(list(sweep(file, out, jobs=2))) == 4 + 4
    return out


def states(lines: Iterator[str]) -> list[str]:
    cells = [line for line in lines if re.match(r"\d+/\d+ ", line)]
    return ["there" if line.endswith(": there already") else "ran" for line in cells]


def started(*words: str | Path) -> subprocess.Popen[str]:
    """Start `treadle sweep` in a process."""
    command = [sys.executable, "-m", "treadle", "sweep", *map(str, words)]
    source = str(Path(treadle.__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": source}
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )


def end(process: subprocess.Popen[str], number: int) -> int:
    """Send a signal once a cell has ended, and return the exit status."""
    assert process.stdout is not None
    for line in process.stdout:
        if not line.endswith(": there already\n"):
            break
    process.send_signal(number)
    status = process.wait()
    for stream in (process.stdout, process.stderr):
        if stream is not None:
            stream.close()
    return status


def require_no_worker(out: Path) -> None:
    """Wait until the lock of every cell is free: a worker holds it as long as it lives."""
    import fcntl

    for lock in out.glob("cells/*/.lock"):
        with lock.open() as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)


def same_tables(out: Path, other: Path) -> bool:
    return all((out / name).read_bytes() == (other / name).read_bytes() for name in TABLES)


def test_what_a_sweep_leaves(whole):
    result = read_result(whole)
    assert result.verb == "sweep"
    assert result.measurement("cells").value == 4
    assert result.measurement("failed_cells").value == 0
    assert [column.name for column in result.tables[0].columns][:3] == ["fraction", "runs", "kept"]
    page = (whole / "report.html").read_text()
    assert "kept minus baseline" in page
    assert "peak memory" in page, "scores and costs stand side by side"
    progress = (whole / "progress.html").read_text()
    assert "http-equiv" not in progress, "a page of what has ended does not load itself again"
    assert 'href="report.html"' in progress
    assert "4 of 4 jobs" in progress


def test_killed_twice_it_gives_the_same_table(file, whole, tmp_path):
    out = tmp_path / "out"
    for _ in range(2):
        assert end(started(file, out), signal.SIGKILL) == -signal.SIGKILL
        require_no_worker(out)
        assert not (out / "table.csv").exists()
        assert 'http-equiv="refresh"' in (out / "progress.html").read_text()
    assert states(sweep(file, out)).count("there") >= 2
    assert same_tables(out, whole)
    assert read_result(out).is_resumed


def test_sigterm_takes_its_workers_along(file, tmp_path):
    assert end(started(file, tmp_path / "out"), signal.SIGTERM) == 130
    require_no_worker(tmp_path / "out")
    assert "Stopped before its end" in (tmp_path / "out" / "progress.html").read_text()


def test_shards_join_into_the_same_table(file, whole, tmp_path):
    parts = [tmp_path / "one", tmp_path / "two"]
    for number, out in enumerate(parts, 1):
        lines = list(sweep(file, out, shard=f"{number}/2"))
        assert len(states(iter(lines))) == 2
        assert "2 of 4 cells are in" in lines[-1]
        assert not (out / "table.csv").exists()
    with pytest.raises(DataError, match="2 jobs of the sweep lie in none of these folders"):
        list(sweep(file, tmp_path / "joined", join=[parts[0]]))
    list(sweep(file, tmp_path / "joined", join=parts))
    assert same_tables(tmp_path / "joined", whole)
    assert not list((tmp_path / "joined").glob("cells/*/drawn/data")), "accounts, not data"
    assert states(sweep(file, tmp_path / "joined")) == ["there"] * 4


def test_only_what_changed_runs_again(file, whole, corpus, tmp_path):
    changed = tmp_path / "sweep.yaml"
    changed.write_text(file.read_text().replace("[0.3, 0.6]", "[0.6, 0.9]"))
    plan = list(sweep(changed, whole, dry_run=True))
    assert [line.rpartition(": ")[2] for line in plan[1:]] == ["there already"] * 2 + [
        "would run"
    ] * 2
    moved = tmp_path / "other.jsonl"
    moved.write_bytes(corpus.read_bytes())
    changed.write_text(FILE.format(corpus=moved))
    assert "would run" not in " ".join(sweep(changed, whole, dry_run=True)), "the bytes are equal"
    with moved.open("a") as stream:
        stream.write('{"id": "more", "text": "one more"}\n')
    assert "there already" not in " ".join(sweep(changed, whole, dry_run=True))


def test_a_cell_that_fails_stops_no_other(corpus, tmp_path):
    file, late = tmp_path / "sweep.yaml", tmp_path / "late.jsonl"
    text = FILE.format(corpus=corpus).replace("baseline: {curate.fraction: 0.6}\n", "")
    text = re.sub(r"  curate.fraction.*\n.*\n", f"  corpus: [{late}, {corpus}]\n", text)
    file.write_text(text)
    late.write_text("no JSON\n")
    lines, out = [], tmp_path / "out"
    with pytest.raises(TreadleError, match=r"1 of 2 cells failed, the first 'late\.jsonl': .*late"):
        lines += sweep(file, out)
    rows = (out / "table.csv").read_text().splitlines()
    assert rows[0].startswith("corpus,runs,failed,kept")
    assert [row.split(",")[1:3] for row in rows[1:]] == [["0", "1"], ["1", "0"]]
    assert "failed" in (out / "progress.html").read_text()
    with pytest.raises(TreadleError, match=r"1 of 2 cells failed, the first 'late\.jsonl': .*late"):
        list(sweep(file, tmp_path / "joined", join=[out]))
    assert same_tables(tmp_path / "joined", out), "what failed there failed"
    plan = list(sweep(file, out, dry_run=True))
    assert "would run again, it failed" in plan[1]
    late.write_bytes(corpus.read_bytes())
    assert states(sweep(file, out)) == ["there", "ran"]
    assert "failed" not in (out / "table.csv").read_text().splitlines()[0]


@pytest.mark.parametrize("text", ["", "[]", '{"format": 2, "seconds": null}', '{"format": 2, "ve'])
def test_a_damaged_result_is_made_again(whole, file, text):
    result = next(whole.glob("cells/*/drawn/result.json"))
    before = result.read_bytes()
    try:
        result.write_text(text)
        plan = list(sweep(file, whole, dry_run=True))
    finally:
        result.write_bytes(before)
    assert [line.endswith(": would run") for line in plan[1:]].count(True) == 1


def test_a_score_that_nothing_measures_ends_it_early(file, whole, tmp_path):
    wrong, out = tmp_path / "wrong.yaml", tmp_path / "out"
    wrong.write_text(file.read_text().replace("scores: [kept]", "scores: [kpt]"))
    done = next(whole.glob("cells/*"))
    shutil.copytree(done, out / "cells" / done.name)
    lines = []
    with pytest.raises(DataError, match=r"No cell measures the score 'kpt'\. Did you mean 'kept'"):
        lines += sweep(wrong, out)
    assert not states(iter(lines)), "one cell is there, and no other has run"


def test_a_reader_that_goes_does_not_end_it(monkeypatch):
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        for _ in range(2):
            _say("a line")
        assert os.fstat(writing).st_rdev == os.stat(os.devnull).st_rdev, "the next line fails again"


def test_a_folder_that_cannot_be_is_refused(file, tmp_path):
    (tmp_path / "out").write_text("a file")
    for out in (tmp_path / "out", tmp_path / "out" / "under"):
        with pytest.raises(SettingsError, match="cannot be made a folder of results"):
            list(sweep(file, out))


def test_a_page_that_is_old_says_so(tmp_path):
    board = Board("title", tmp_path, 1, [])
    board.write()
    page = (tmp_path / "progress.html").read_text()
    assert "Last written at 2" in page
    assert "the sweep may have been killed; " in page
    board.write("Ended.")
    assert "killed" not in (tmp_path / "progress.html").read_text()


def test_what_prepares_fails_once_and_its_cells_with_it(corpus, tmp_path):
    file = tmp_path / "sweep.yaml"
    (tmp_path / "broken.jsonl").write_text("no JSON\n")
    text = FILE.format(corpus=tmp_path / "broken.jsonl").replace("data: corpus", "data: half")
    prepare = "prepare:\n  - curate: {method: sample, data: corpus, fraction: 0.5, out: half}\n"
    file.write_text(text.replace("steps:", prepare + "steps:"))
    with pytest.raises(TreadleError, match=r"4 of 4 cells failed, .* What prepares it failed: "):
        list(sweep(file, tmp_path / "out"))
    assert len(list((tmp_path / "out").glob("*/*/log.txt"))) == 1, "no cell was started"


def test_a_worker_that_the_system_kills_is_told(file, tmp_path):
    cells = make_jobs(load_document(file, tmp_path / "out"), Contents()).cells
    with CellPool(1) as pool:
        events = pool.run([cells[0].job])
        assert next(events) == cells[0].job
        pool._running[0][1].kill()
        ended = next(events)
    assert "ended by SIGKILL (out of memory?); see" in ended.error
    assert cells[0].job.error == ended.error
    assert not cells[1].job.error


def test_a_full_disk_is_told(file, tmp_path, monkeypatch):
    def write(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("treadle.app.sweep.pool.write_job", write)
    with pytest.raises(CapacityError, match=r"There is no room for .* Free some"):
        list(sweep(file, tmp_path / "out"))


def test_two_at_once_are_refused(file, whole):
    from treadle.app.sweep.apply import _alone

    with _alone(whole), pytest.raises(SettingsError, match=rf"in use by process {os.getpid()} on"):
        list(sweep(file, whole))
    assert states(sweep(file, whole)) == ["there"] * 4


def test_files_that_no_sweep_made_stay(file, tmp_path):
    (tmp_path / "table.csv").write_text("mine")
    with pytest.raises(SettingsError, match=r"table\.csv' was made by no sweep"):
        list(sweep(file, tmp_path))
    assert (tmp_path / "table.csv").read_text() == "mine"


def test_what_is_imported_is_not_timed(file, tmp_path, monkeypatch):
    loaded = []
    monkeypatch.setattr(worker, "import_module", loaded.append)
    worker.load(make_jobs(load_document(file, tmp_path), Contents()).cells[0].job)
    assert loaded == [], "text needs no torch"
    step = parse_step(1, {"prune": {"method": "random", "model": "x", "out": "y"}})
    recipe = Recipe("name", tmp_path, {}, frozenset(), [step])
    worker.load(CellJob("label", recipe, []))
    assert loaded[0] == "torch"


def test_threads_are_shared_out(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3, 4, 5}, raising=False)
    assert [_share(slot, 2) for slot in range(3)] == [[0, 1], [2, 3], [4, 5]]
    assert _share(0, 9) == [0, 1, 2, 3, 4, 5], "more threads than cores"
    assert [_share(slot, 1) for slot in (0, 5, 6)] == [[0], [5], [0]], "more jobs than cores"
    assert _share(1, 4) == [0, 1, 4, 5]
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    found = _environment(2)
    assert (found["OMP_NUM_THREADS"], found["MKL_NUM_THREADS"]) == ("1", "2")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_three_metrics_three_sparsities_two_seeds_killed_twice_in_two_shards(llama, tmp_path):
    file = tmp_path / "sweep.yaml"
    text = (ROOT / "recipes" / "sweeps" / "prune.yaml").read_text()
    text = text.replace("packaged:smollm2", str(llama))
    file.write_text(text.replace("num_windows: 8", "num_windows: 2, window_tokens: 32"))
    list(sweep(file, tmp_path / "whole", jobs=2))
    parts = [tmp_path / "one", tmp_path / "two"]
    for _ in range(2):
        killed = started(file, parts[0], "--jobs", "2", "--shard", "1/2")
        assert end(killed, signal.SIGKILL) < 0
        require_no_worker(parts[0])
    for number, out in enumerate(parts, 1):
        list(sweep(file, out, jobs=2, shard=f"{number}/2"))
    list(sweep(file, tmp_path / "joined", join=parts))
    assert same_tables(tmp_path / "joined", tmp_path / "whole")
    assert not list((tmp_path / "whole").rglob("*.safetensors")), "temporary"
    table = read_result(tmp_path / "whole").tables[0]
    assert len(table.rows) == 1 + 9
    assert "perplexity minus baseline" in [column.name for column in table.columns]
