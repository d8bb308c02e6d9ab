"""The saved state: a killed run goes on bit by bit, and no state but its own is taken."""

import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from products import few
from treadle.core.errors import CapacityError, CheckpointError, DataError, SettingsError
from treadle.model import tiny
from treadle.model.fit import FitSettings, Objective, fit, next_token_loss, random_batches

from . import cases

STATE = "fit.safetensors"
BATCHES = random_batches(cases.TOKENS, 2, 8, seed=1)
IDENTITY = "windows of TOKENS with seed 1, next token"


def weights(model):
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def run_alone(script, *arguments):
    """Run a script in a process of its own, beside this package."""
    command = [sys.executable, "-c", script, *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    here = Path(__file__).parent.parent
    return subprocess.run(command, cwd=here, env=environment, capture_output=True, text=True)


def stopped(at, error=KeyboardInterrupt):
    def batches(step, losses):
        if step == at:
            raise error
        return BATCHES(step, losses)

    return batches


def begun(folder, num_done=1, **options):
    """Leave the state of a run that was stopped."""
    settings = FitSettings(steps=3, save_every=1)
    with pytest.raises(KeyboardInterrupt):
        fit(
            tiny.model("llama"),
            stopped(num_done),
            settings,
            folder,
            **{"identity": IDENTITY, **options},
        )
    assert [file.name for file in folder.iterdir()] == [STATE]
    return settings


KILLED = """
import sys
from pathlib import Path
import torch
from fit import cases
torch.set_num_threads(1)
cases.train(sys.argv[1], Path(sys.argv[2]), kill_at=5)
"""


@pytest.mark.parametrize("case", few(["adamw", "some, muon"], "some, muon"))
def test_after_kill_9_the_weights_are_those_of_one_run(case, tmp_path):
    expected, whole = cases.train(case, tmp_path / "whole")
    done = run_alone(KILLED, case, tmp_path / "state")
    assert done.returncode == -signal.SIGKILL, done.stderr
    found, resumed = cases.train(case, tmp_path / "state", seed=7)  # its own weights give way
    assert found.first_step == 4
    assert found.losses == expected.losses
    assert found.gradient_norms == expected.gradient_norms
    assert found.evaluations == expected.evaluations
    assert [step for step, _ in found.evaluations["held-out"]] == [0, 3, 6]
    for name, value in weights(whole).items():
        assert torch.equal(weights(resumed)[name], value)
    assert not list((tmp_path / "state").iterdir())


@pytest.mark.parametrize("case", ["muon", "zeros"])
def test_a_run_that_was_stopped_goes_on_to_the_same_weights(case, tmp_path, monkeypatch):
    expected, whole = cases.train(case, tmp_path / "whole")

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "kill", stop)
    with pytest.raises(KeyboardInterrupt):
        cases.train(case, tmp_path / "state", kill_at=5)
    found, resumed = cases.train(case, tmp_path / "state")
    assert found.first_step == 4
    assert found.losses == expected.losses
    for name, value in weights(whole).items():
        assert torch.equal(weights(resumed)[name], value)


@pytest.mark.parametrize(("case", "memory"), [("adamw", "exp_avg_sq"), ("muon", "momentum_buffer")])
def test_the_state_is_that_of_what_learns_alone(case, memory, tmp_path):
    begun(tmp_path, learn=r"layers\.0\.mlp\.", optimizer=case)
    names = [f"model.layers.0.mlp.{role}_proj.weight" for role in ("gate", "up", "down")]
    with safe_open(tmp_path / STATE, "pt") as file:
        found = set(file.keys())
    assert {f"weight {name}" for name in names} == {f for f in found if f.startswith("weight")}
    assert {f"memory {memory} {name}" for name in names} <= found
    assert all("mlp" in name for name in found if not name.startswith("course"))


@pytest.mark.parametrize(
    ("options", "change"),
    [
        ({}, {"steps": 5}),
        ({"optimizer": "muon"}, {}),
        ({"learn": "norm"}, {}),
        ({"identity": "another text"}, {}),
    ],
)
def test_the_state_of_another_run_is_refused(options, change, tmp_path):
    settings, model = begun(tmp_path).model_copy(update=change), tiny.model("llama")
    with pytest.raises(SettingsError, match="other settings, data or model; finish that one, or"):
        fit(model, BATCHES, settings, tmp_path, **{"identity": IDENTITY, **options})
    assert (tmp_path / STATE).is_file()


def test_the_state_beside_another_frozen_model_is_refused(tmp_path):
    settings = begun(tmp_path, learn="norm")
    with pytest.raises(SettingsError, match="other settings, data or model"):
        fit(
            tiny.model("llama", seed=3),
            BATCHES,
            settings,
            tmp_path,
            learn="norm",
            identity=IDENTITY,
        )
    fit(tiny.model("llama"), BATCHES, settings, tmp_path, learn="norm", identity=IDENTITY)


@pytest.mark.parametrize("damage", ["cut", "empty", "bits", "foreign"])
def test_a_damaged_state_is_named(damage, tmp_path):
    settings, file = begun(tmp_path), tmp_path / STATE
    content = bytearray(file.read_bytes())
    if damage == "bits":
        content[-5000] ^= 1
    file.write_bytes(
        {
            "cut": content[: len(content) // 2],
            "empty": b"",
            "bits": content,
            "foreign": b"\x02\x00\x00\x00\x00\x00\x00\x00{}",
        }[damage]
    )
    with pytest.raises(CheckpointError, match=r"fit.safetensors' is damaged .*; remove it to beg"):
        fit(tiny.model("llama"), BATCHES, settings, tmp_path, identity=IDENTITY)


@pytest.fixture
def full_disk():
    """Return a function from which on no file may grow beyond a few bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_leaves_the_former_state(tmp_path, full_disk):
    def batches(step, losses):
        if step == 1:
            full_disk()
        return BATCHES(step, losses)

    settings = FitSettings(steps=3, save_every=1)
    with pytest.raises(CapacityError) as refused:
        fit(tiny.model("llama"), batches, settings, tmp_path, identity=IDENTITY)
    assert "after 2 steps could not be saved" in str(refused.value)
    assert "the state before it is there. Make room" in str(refused.value)
    assert [file.name for file in tmp_path.iterdir()] == [STATE]


def test_a_run_goes_on_from_the_state_before_the_disk_was_full(tmp_path):
    settings = begun(tmp_path)
    assert fit(tiny.model("llama"), BATCHES, settings, tmp_path, identity=IDENTITY).first_step == 1


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    settings = FitSettings(steps=3, save_every=1)
    with pytest.raises(CapacityError, match=r"after 1 steps could not be saved .*none is there"):
        fit(tiny.model("llama"), BATCHES, settings, tmp_path / "file" / "state", identity=IDENTITY)


def test_a_loss_that_is_no_number_leaves_the_last_good_state(tmp_path):
    calls = []

    def loss(model, batch):
        calls.append(len(calls))
        found = next_token_loss(model, batch)
        return found * float("nan") if len(calls) == 3 else found

    settings = FitSettings(steps=4, save_every=1)
    with pytest.raises(DataError, match="The loss is nan at step 2, rows 0 to 1"):
        fit(
            tiny.model("llama"),
            BATCHES,
            settings,
            tmp_path,
            identity=IDENTITY,
            objective=Objective(loss),
        )
    found = fit(tiny.model("llama"), BATCHES, settings, tmp_path, identity=IDENTITY)
    assert found.first_step == 2
    assert found.losses == fit(tiny.model("llama"), BATCHES, FitSettings(steps=4)).losses


def half(model, batch):
    return next_token_loss(model, batch) / 2


@pytest.mark.parametrize("identity", ["", " \n", None, 3])
def test_a_state_is_saved_only_with_a_text_that_names_the_run(identity, tmp_path):
    settings = FitSettings(steps=3, save_every=1)
    with pytest.raises(SettingsError) as refused:
        fit(tiny.model("llama"), BATCHES, settings, tmp_path, identity=identity)
    assert str(refused.value) == (
        f"identity = {identity!r}, but save_every needs a text that names data and objective, such "
        "as a digest of both: functions cannot be compared, and a state that was saved under "
        "others would be taken for this run's. Give one, or set save_every to 0."
    )
    assert not list(tmp_path.iterdir())


def test_a_run_of_another_objective_does_not_go_on_from_a_state(tmp_path):
    settings = begun(tmp_path, objective=half, identity="TOKENS, half")
    with pytest.raises(SettingsError, match="other settings, data or model; finish that one, or"):
        fit(tiny.model("llama"), BATCHES, settings, tmp_path, identity="TOKENS, next token")
    model = tiny.model("llama")
    found = fit(model, BATCHES, settings, tmp_path, objective=half, identity="TOKENS, half")
    assert found.first_step == 1
