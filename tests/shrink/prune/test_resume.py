"""A run that was killed goes on where it stopped, and ends in the same bytes."""

import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from naive import files_of
from products import few
from shrink.prune.runs import run
from treadle.core.checkpoint import CheckpointWriter
from treadle.core.errors import SettingsError
from treadle.core.result import read_result
from treadle.model import tiny

CASES = {
    "one_pass": ("wanda", {"pattern": "rows"}, 1),
    "two_pass": ("sparsegpt", {"pattern": "2:4", "calibrate": "two-pass"}, 1),
    "dense": ("wanda", {"calibrate": "dense", "allocation": "owl"}, 1),
    "global": ("magnitude", {"pattern": "global"}, 1),
    "gradients": ("pruner_zero", {}, 1),
    "neurons": ("wanda", {"pattern": "neurons", "update": "obs"}, 1),
    "heads": ("wanda", {"pattern": "heads"}, 1),
    "first_block": ("wanda", {"seed": 1}, 0),
    "last_block": ("wanda", {"seed": 2}, 2),
}

# Kills itself before block `last` counts as done, after its tensors and its outputs were written.
SCRIPT = textwrap.dedent(
    """
    import os, signal, sys
    from pathlib import Path
    import torch
    torch.set_num_threads(1)
    from shrink.prune.runs import run
    from shrink.prune.test_resume import CASES
    from treadle.core.checkpoint import CheckpointWriter

    model, text, folder, *names = sys.argv[1:]
    for name in names:
        method, settings, last = CASES[name]
        pid = os.fork()
        if pid == 0:
            mark_done = CheckpointWriter.mark_done

            def killed(self, names):
                if any(f".layers.{last}." in name and "_proj" in name for name in names):
                    os.kill(os.getpid(), signal.SIGKILL)
                mark_done(self, names)

            CheckpointWriter.mark_done = killed
            given = None if method == "magnitude" else text
            run(Path(model), Path(folder) / name, method, given, **settings)
            os._exit(7)
        _, status = os.waitpid(pid, 0)
        assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL, (name, status)
    """
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.build("llama", tmp_path_factory.mktemp("llama3"), num_hidden_layers=3)


@pytest.fixture(scope="module")
def killed(
    model: Path,
    text: str,
    tmp_path_factory: pytest.TempPathFactory,
    request: pytest.FixtureRequest,
) -> Path:
    """Return a folder in which each case of this run was killed in the middle."""
    folder = tmp_path_factory.mktemp("killed")
    tests = Path(__file__).parents[2]
    asked = [item for item in request.session.items if item.path == request.path]
    names = sorted(item.callspec.params["name"] for item in asked if "killed" in item.fixturenames)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SCRIPT, str(model), text, str(folder), *names],
        env={**os.environ, "PYTHONPATH": str(tests)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return folder


def without_clocks(folder: Path) -> dict[str, bytes]:
    return {name: data for name, data in files_of(folder).items() if name != "result.json"}


@pytest.mark.parametrize("name", few(CASES, "one_pass", "two_pass", "heads"))
def test_resumed_equals_uninterrupted(
    name: str, model: Path, text: str, killed: Path, tmp_path: Path
) -> None:
    method, settings, last = CASES[name]
    given = None if method == "magnitude" else text
    out = killed / name
    assert not out.exists()
    assert (killed / f".{name}.partial").is_dir()
    resumed = run(model, out, method, given, **settings)
    whole = run(model, tmp_path / name, method, given, **settings)
    assert without_clocks(out) == without_clocks(tmp_path / name)
    told = [note for note in resumed.notes if "Resumed" in note]
    if last:
        [note] = told
        assert note.startswith(f"Resumed: an interrupted run had pruned the first {last} of 3 ")
    else:
        assert not told
    assert not [note for note in whole.notes if "Resumed" in note]
    mine, theirs = read_result(out), read_result(tmp_path / name)
    assert mine.fingerprint == theirs.fingerprint
    assert mine.measurements == theirs.measurements
    left = {path.name for path in killed.iterdir()}
    assert not left & {f".{name}.partial", f".{name}.hidden"}, "nothing is left beside"


@contextmanager
def interrupted(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Interrupt runs before block 2 counts as done."""
    mark_done = CheckpointWriter.mark_done

    def stop(self, names: list[str]) -> None:
        if any(".layers.2." in name and "_proj" in name for name in names):
            raise KeyboardInterrupt
        mark_done(self, names)

    with monkeypatch.context() as patch:
        patch.setattr(CheckpointWriter, "mark_done", stop)
        yield


def test_other_settings_do_not_resume(
    model: Path, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with interrupted(monkeypatch), pytest.raises(KeyboardInterrupt):
        run(model, tmp_path / "out", "wanda", text, sparsity=0.5)
    result = run(model, tmp_path / "out", "wanda", text, sparsity=0.25)
    assert not result.notes
    run(model, tmp_path / "whole", "wanda", text, sparsity=0.25)
    assert without_clocks(tmp_path / "out").keys() == without_clocks(tmp_path / "whole").keys()
    weights = [files_of(tmp_path / n)["model.safetensors"] for n in ("out", "whole")]
    assert weights[0] == weights[1]
    assert {path.name for path in tmp_path.iterdir()} == {"out", "whole"}


@pytest.mark.parametrize("damage", ["gone", "torn"])
def test_a_lost_hidden_state_starts_from_block_0(
    damage: str, model: Path, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with interrupted(monkeypatch), pytest.raises(KeyboardInterrupt):
        run(model, tmp_path / "out", "wanda", text)
    for file in (tmp_path / ".out.hidden").iterdir():
        file.unlink() if damage == "gone" else file.write_bytes(file.read_bytes()[:200])
    result = run(model, tmp_path / "out", "wanda", text)
    assert not result.notes
    run(model, tmp_path / "whole", "wanda", text)
    weights = [files_of(tmp_path / n)["model.safetensors"] for n in ("out", "whole")]
    assert weights[0] == weights[1]


def test_a_finished_run_is_not_overwritten_unasked(model: Path, tmp_path: Path) -> None:
    run(model, tmp_path / "out", "magnitude", sparsity=0.5)
    before = files_of(tmp_path / "out")
    with pytest.raises(SettingsError, match="already exists; choose another folder, or pass"):
        run(model, tmp_path / "out", "magnitude", sparsity=0.25)
    assert files_of(tmp_path / "out") == before
    run(model, tmp_path / "out", "magnitude", sparsity=0.25, overwrite=True)
    assert files_of(tmp_path / "out") != before
    assert {path.name for path in tmp_path.iterdir()} == {"out"}
