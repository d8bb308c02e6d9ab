"""Observers: told every step and evaluation, without a part in the training."""

import sys

import pytest
import torch

from treadle.core.errors import SettingsError
from treadle.core.seed import torch_stream
from treadle.model import tiny
from treadle.model.fit import FitSettings, TensorBoard, fit, random_batches

TOKENS = torch.randint(0, 320, (400,), generator=torch_stream(0, "tokens"))
SETTINGS = FitSettings(steps=4, evaluate_every=2, save_every=2)


def train(folder=None, observe=None, kill_at=-1):
    rows = random_batches(TOKENS, 2, 16, seed=1)

    def batches(step, losses):
        if step == kill_at:
            raise KeyboardInterrupt
        return rows(step, losses)

    options = {"evaluate": lambda done: {"updates": done}, "identity": "TOKENS", "observe": observe}
    return fit(tiny.model("llama"), batches, SETTINGS, folder, **options)


def curves(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder)).Reload()
    return {
        tag: [(event.step, event.value) for event in found.Scalars(tag)]
        for tag in found.Tags()["scalars"]
    }


def test_an_observer_is_told_every_step_and_evaluation(tmp_path):
    told = []
    done = train(tmp_path / "state", observe=lambda num, values: told.append((num, dict(values))))
    steps = [(num, values) for num, values in told if "loss" in values]
    assert [num for num, _ in steps] == [1, 2, 3, 4]
    assert [values["loss"] for _, values in steps] == done.losses
    assert [values["gradient_norm"] for _, values in steps] == done.gradient_norms
    assert [v["learning_rate"] for _, v in steps] == [SETTINGS.rate(n) for n in range(4)]
    assert steps[0][1]["tokens_per_second"] == pytest.approx(32 / done.seconds[0])
    evaluations = [(num, v) for num, v in told if "loss" not in v]
    assert evaluations == [(num, {"evaluation/updates": num}) for num in (0, 2, 4)]
    assert train(tmp_path / "state").losses == done.losses, "it has no part in it"


def test_an_observer_that_is_none(tmp_path):
    with pytest.raises(SettingsError, match="observe is an int"):
        train(tmp_path, observe=3)


def test_tensorboard_reads_the_curves(tmp_path):
    pytest.importorskip("tensorboard")
    with TensorBoard(tmp_path / "run") as board:
        done = train(tmp_path / "state", observe=board)
    found = curves(tmp_path / "run")
    assert set(found) == {
        *("loss", "gradient_norm", "learning_rate", "tokens_per_second", "evaluation/updates")
    }
    assert [step for step, _ in found["loss"]] == [1, 2, 3, 4]
    assert [value for _, value in found["loss"]] == pytest.approx(done.losses)


def test_a_run_that_goes_on_goes_on_in_its_curves(tmp_path):
    pytest.importorskip("tensorboard")
    with pytest.raises(KeyboardInterrupt), TensorBoard(tmp_path / "run") as board:
        train(tmp_path / "state", board, kill_at=3)
    with TensorBoard(tmp_path / "run") as board:
        done = train(tmp_path / "state", board)
    assert done.first_step == 2, "step 3 is taken again"
    found = curves(tmp_path / "run")["loss"]
    assert [step for step, _ in found] == [1, 2, 3, 4]
    assert [value for _, value in found] == pytest.approx(done.losses)


def test_without_the_package_the_message_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(SettingsError, match=r"pip install 'treadle\[tensorboard\]'"):
        TensorBoard(tmp_path)
