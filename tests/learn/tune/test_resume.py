"""A run that was killed goes on to the same bytes; the state of another run is not taken."""

import errno
import os
import signal
import subprocess
import sys
import time

import pytest

from learn.tune.cases import PAIRS, QUESTIONS, written
from products import few
from treadle.core.checkpoint import content_hash
from treadle.core.errors import CapacityError, CheckpointError, DataError, SettingsError
from treadle.core.result import read_result
from treadle.learn.tune import METHODS, run, tune
from treadle.learn.tune.methods.sft import SFT

SETTINGS = {"steps": 6, "rows": 4, "learning_rate": 1e-2, "save_every": 2}


def given(method, folder, teacher):
    rows = PAIRS if method == "dpo" else QUESTIONS
    more = {"teacher": str(teacher), "top": 5} if method == "distill" else {}
    return {"data": written(folder / f"{method}.jsonl", rows), **SETTINGS, **more}


@pytest.mark.parametrize("method", few(METHODS.table, "dpo", "distill"))
def test_a_run_that_stops_goes_on_to_the_same_bytes(method, llama, tmp_path, monkeypatch):
    settings = given(method, tmp_path, llama)
    tune(llama, tmp_path / "whole", method, **settings)
    real, count = run.collate, []

    def stops(groups, numbers):
        count.append(numbers)
        if len(count) == 5:
            raise KeyboardInterrupt
        return real(groups, numbers)

    monkeypatch.setattr(run, "collate", stops)
    with pytest.raises(KeyboardInterrupt):
        tune(llama, tmp_path / "out", method, **settings)
    monkeypatch.setattr(run, "collate", real)
    assert (tmp_path / ".out.tuning" / "fit.safetensors").is_file()
    assert not (tmp_path / "out").exists()
    result = tune(llama, tmp_path / "out", method, **settings)
    assert result.is_resumed
    assert any("had taken the first 4 of 6 steps" in note for note in result.notes)
    assert content_hash(tmp_path / "out") == content_hash(tmp_path / "whole")
    assert not (tmp_path / ".out.tuning").exists()


@pytest.mark.slow
def test_after_kill_9_the_same_command_ends_with_the_same_bytes(llama, tmp_path):
    data = written(tmp_path / "rows.jsonl", QUESTIONS)
    words = ["--data", data, "--steps", "40", "--rows", "6", "--learning-rate", "1e-2"]
    words += ["--save-every", "1", "--learn", "lora"]

    def start(out):
        command = [sys.executable, "-m", "treadle", "tune", "sft", str(llama), str(out), *words]
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, env={**os.environ})

    killed = start(tmp_path / "out")
    state = tmp_path / ".out.tuning" / "fit.safetensors"
    end = time.monotonic() + 60
    while not state.is_file() and time.monotonic() < end:
        time.sleep(0.005)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert state.is_file()
    assert start(tmp_path / "out").wait() == 0
    assert start(tmp_path / "whole").wait() == 0
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert read_result(tmp_path / "out").is_resumed


def test_the_state_of_another_run_is_refused_or_overwritten(llama, tmp_path):
    data = written(tmp_path / "rows.jsonl", QUESTIONS)
    other = tune(llama, tmp_path / "five", "sft", data=data, **{**SETTINGS, "steps": 5})
    (tmp_path / ".out.tuning").mkdir()
    (tmp_path / ".out.tuning" / "run.json").write_text(other.model_dump_json())
    with pytest.raises(
        SettingsError, match=r"another run, .*\(they differ in steps\).*--overwrite"
    ):
        tune(llama, tmp_path / "out", "sft", data=data, **SETTINGS)
    assert (tmp_path / ".out.tuning" / "run.json").is_file()
    tune(llama, tmp_path / "out", "sft", data=data, overwrite=True, **SETTINGS)
    assert not (tmp_path / ".out.tuning").exists()


def test_a_state_that_no_longer_says_whose_it_is_is_refused(llama, tmp_path):
    data = written(tmp_path / "rows.jsonl", QUESTIONS)
    (tmp_path / ".out.tuning").mkdir()
    with pytest.raises(CheckpointError, match="no longer says of which"):
        tune(llama, tmp_path / "out", "sft", data=data, **SETTINGS)


def test_a_loss_that_is_no_number_stops_by_step_and_rows_and_keeps_the_state(llama, tmp_path):
    data = written(tmp_path / "rows.jsonl", QUESTIONS)
    wild = {**SETTINGS, "learning_rate": 1e30, "clip_norm": 0.0, "save_every": 1}
    with pytest.raises(DataError, match=r"at step 1; lower .* The step's rows: line \d+ of"):
        tune(llama, tmp_path / "out", "sft", data=data, **wild)
    assert (tmp_path / ".out.tuning" / "fit.safetensors").is_file()
    assert not (tmp_path / "out").exists()


def test_a_row_whose_loss_is_no_number_is_named(llama, tmp_path, monkeypatch):
    data = written(tmp_path / "rows.jsonl", QUESTIONS)
    loss = SFT.loss
    monkeypatch.setattr(SFT, "loss", lambda self, found: loss(self, found) * float("nan"))
    with pytest.raises(DataError, match=r"At step 0, part 1 of 1: the loss is nan, of line \d+ of"):
        tune(llama, tmp_path / "out", "sft", data=data, **SETTINGS)
    assert not (tmp_path / ".out.tuning").exists()  # nothing was learned: nothing to go on with


@pytest.mark.parametrize("learn", ["all", "lora"])
def test_a_disk_that_is_full_at_the_end_costs_no_training(learn, llama, tmp_path):
    settings = {**SETTINGS, "data": written(tmp_path / "rows.jsonl", QUESTIONS), "learn": learn}
    name = "write_model" if learn == "all" else "write_adapter"

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device", str(tmp_path / "out"))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, name, full)
        with pytest.raises(CapacityError, match="no room for"):
            tune(llama, tmp_path / "out", "sft", **settings)
    result = tune(llama, tmp_path / "out", "sft", **settings)
    assert any("had taken the first 6 of 6 steps" in note for note in result.notes)
    assert not (tmp_path / ".out.tuning").exists()
