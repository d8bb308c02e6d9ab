"""A run that was killed goes on where its state was saved, and ends in the same bytes."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from naive import files_of
from shrink.sparsify.runs import run
from treadle.core.result import read_result
from treadle.shrink.sparsify import run as running
from treadle.shrink.sparsify import state as states

CASES = {
    "locret": ("locret", {}),
    "sums": ("kvzap", {"target": "cis"}),
    "mlp": ("kvzap", {"form": "mlp", "target": "cis"}),
    "gated": ("gated", {"target": "cis"}),
}
SAMPLES = {"num_samples": 6, "heldout_fraction": 0.2}

# Kills itself while the state after three samples is written: what was saved after two stays.
SCRIPT = textwrap.dedent(
    """
    import os, signal, sys
    from pathlib import Path
    import torch
    torch.set_num_threads(1)
    from shrink.sparsify.runs import run
    from shrink.sparsify.test_resume import CASES, SAMPLES
    from treadle.shrink.sparsify import run as running
    from treadle.shrink.sparsify import state as states

    running._SAVE_SECONDS = 0.0
    written = states.write_state

    def killed(file, tensors, note):
        if note["num_samples"] == 3:
            file.write_bytes(b"half of a state")
            os.kill(os.getpid(), signal.SIGKILL)
        written(file, tensors, note)

    states.write_state = killed
    model, text, folder, *names = sys.argv[1:]
    for name in names:
        method, settings = CASES[name]
        pid = os.fork()
        if pid == 0:
            run(Path(model), Path(folder) / name, method, text, **SAMPLES, **settings)
            os._exit(7)
        _, status = os.waitpid(pid, 0)
        assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL, (name, status)
    """
)


@pytest.fixture(scope="module")
def killed(llama: Path, text: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder in which each case was killed in the middle."""
    folder = tmp_path_factory.mktemp("killed")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SCRIPT, str(llama), text, str(folder), *CASES],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), *sys.path]),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return folder


def without_clocks(folder: Path) -> dict[str, bytes]:
    return {name: data for name, data in files_of(folder).items() if name != "result.json"}


@pytest.mark.parametrize("name", CASES)
def test_resumed_equals_uninterrupted(
    name: str, llama: Path, text: str, killed: Path, tmp_path: Path
) -> None:
    method, settings = CASES[name]
    out = killed / name
    assert not out.exists()
    assert (killed / f".{name}.sparsifying").is_dir()
    resumed = run(llama, out, method, text, **SAMPLES, **settings)
    run(llama, tmp_path / name, method, text, **SAMPLES, **settings)
    assert without_clocks(out) == without_clocks(tmp_path / name)
    [told] = [note for note in resumed.notes if "Resumed" in note]
    assert told.startswith("Resumed: an interrupted run had learned the first 2 of 5 samples")
    mine, theirs = read_result(out), read_result(tmp_path / name)
    assert mine.fingerprint == theirs.fingerprint
    assert mine.measurements == theirs.measurements
    assert mine.figures == theirs.figures
    assert not (killed / f".{name}.sparsifying").exists()


@pytest.fixture
def interrupted(llama: Path, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return where a run was interrupted before its held-out samples were measured."""

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(running, "_measure", stop)
        with pytest.raises(KeyboardInterrupt):
            run(llama, tmp_path / "out", "locret", text)
    return tmp_path


def test_other_settings_begin_anew(interrupted: Path, llama: Path, text: str, caplog) -> None:
    result = run(llama, interrupted / "out", "locret", text, seed=1)
    assert "begun with other settings or inputs" in caplog.text
    assert not [note for note in result.notes if "Resumed" in note]
    run(llama, interrupted / "whole", "locret", text, seed=1)
    heads = [
        files_of(interrupted / name)["retaining-locret.safetensors"] for name in ("out", "whole")
    ]
    assert heads[0] == heads[1]


def test_a_damaged_state_begins_anew(interrupted: Path, llama: Path, text: str, caplog) -> None:
    [file] = (interrupted / ".out.sparsifying").iterdir()
    file.write_bytes(file.read_bytes()[:-9])
    result = run(llama, interrupted / "out", "locret", text)
    assert "it is damaged" in caplog.text
    assert not [note for note in result.notes if "Resumed" in note]
    assert states.SamplesLearned() == (0, 0, ())
