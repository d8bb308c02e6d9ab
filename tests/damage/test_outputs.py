"""Two runs into one output, a full disk and a closed folder, for every verb that writes."""

import fcntl
import os
import resource
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from damage.outputs import OF_A_SERVER, WRITERS, Inputs, make_inputs
from products import few
from treadle.core.errors import CapacityError, SettingsError, TreadleError
from treadle.verbs import VERBS

GOING_ON = ("run", "evaluate grid", "route prepare")
"""What has several parts, and keeps those that are done."""
FEW = ("curate", "curate pack", "prune", "merge", "evaluate", "export")


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    return make_inputs(tmp_path_factory.mktemp("inputs"))


def test_every_verb_that_writes_is_here() -> None:
    writing = {
        verb.name if one is verb else f"{verb.name} {one.name}"
        for verb in VERBS.values()
        for one in (verb, *verb.actions)
        if "out" in one.parameters()
    }
    assert writing - OF_A_SERVER == WRITERS.keys() - {"export", "run", "sweep"}


def files_of(folder: Path) -> dict[str, bytes]:
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


@contextmanager
def room_for(num_bytes: int) -> Iterator[None]:
    """Let no file grow beyond so many bytes: what a full disk does, without one."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


@contextmanager
def held(out: Path) -> Iterator[None]:
    """Hold an output as another process does."""
    with out.with_name(f".{out.name}.lock").open("a+") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        stream.write("process 7 on there")
        stream.flush()
        yield


@pytest.mark.parametrize("name", few(WRITERS, *FEW))
@pytest.mark.parametrize("num_bytes", [0, 300, 20_000])
def test_a_full_disk(name: str, num_bytes: int, inputs: Inputs, tmp_path: Path) -> None:
    out, told = tmp_path / "out", None
    try:
        with room_for(num_bytes):
            WRITERS[name](inputs, out)
    except TreadleError as error:
        told = error
    if told is not None and name != "sweep":  # whose cells have their own errors
        assert isinstance(told, CapacityError)
        assert str(out) in str(told)
        assert ".partial" not in str(told)
        assert not out.exists() or name in GOING_ON
    assert not (tmp_path / ".out.lock").exists()
    if not out.exists() or name in ("run", "sweep") or (told is not None and name in GOING_ON):
        WRITERS[name](inputs, out)
    assert any(out.iterdir())


@pytest.mark.parametrize("name", few(WRITERS, *FEW))
def test_another_run_holds_the_output(name: str, inputs: Inputs, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out = out / "pruned" if name == "run" else out  # each step holds its own
    out.parent.mkdir(exist_ok=True)
    target = tmp_path / "out" if name == "run" else out
    with held(out), pytest.raises(SettingsError) as caught:
        WRITERS[name](inputs, target)
    assert f"'{out}' is being written by process 7 on there; wait for it" in str(caught.value)
    assert not out.exists() or name == "sweep"  # which has a lock of its own in it
    WRITERS[name](inputs, target)


@pytest.mark.parametrize("name", few(WRITERS, *FEW))
def test_a_folder_that_may_not_be_written(name: str, inputs: Inputs) -> None:
    """/proc takes no folders from anybody, root among them."""
    with pytest.raises((SettingsError, CapacityError), match=r"/proc/"):
        WRITERS[name](inputs, Path("/proc/none/out"))


@pytest.mark.parametrize("name", few(WRITERS, *FEW))
def test_an_output_below_a_file(name: str, inputs: Inputs, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("kept")
    with pytest.raises(SettingsError, match=r"'.*file/out' cannot be"):
        WRITERS[name](inputs, tmp_path / "file" / "out")
    assert (tmp_path / "file").read_text() == "kept"


RACE = """
    import sys
    from pathlib import Path
    sys.path.insert(0, sys.argv[1])
    from damage.outputs import Inputs, WRITERS
    from treadle.core.errors import TreadleError

    inputs = Inputs(*map(Path, sys.argv[4:]))
    print("ready", flush=True)
    sys.stdin.readline()
    try:
        WRITERS[sys.argv[2]](inputs, Path(sys.argv[3]))
    except TreadleError as error:
        sys.exit(f"{type(error).__name__}: {error}")
"""


@pytest.mark.parametrize("name", few(WRITERS, "curate"))
def test_two_runs_at_once(name: str, inputs: Inputs, tmp_path: Path) -> None:
    """One of them wins and the output is what it makes alone; the other one is told."""
    alone, out = tmp_path / "alone", tmp_path / "out"
    WRITERS[name](inputs, alone)
    tests = str(Path(__file__).parents[1])
    command = [sys.executable, "-W", "ignore", "-c", textwrap.dedent(RACE), tests, name, str(out)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    runs = [subprocess.Popen([*command, *map(str, inputs)], text=True, **pipes) for _ in range(3)]
    for run in runs:
        assert run.stdout.readline() == "ready\n"
    for run in runs:
        run.stdin.write("\n")
        run.stdin.flush()
    said = [run.communicate(timeout=120)[1] for run in runs]
    codes = [run.returncode for run in runs]
    assert 0 in codes, said
    for code, told in zip(codes, said, strict=True):
        assert code == 0 or "SettingsError" in told, told
    # The second one finds steps done, which is no error, and inspecting twice loses nothing.
    if name not in ("run", "sweep", "merge inspect"):
        assert codes.count(0) == 1
    numbers = [n for n in files_of(alone) if n.endswith((".safetensors", ".parquet", ".bin"))]
    for number in numbers:
        assert files_of(out)[number] == files_of(alone)[number]
    assert not [entry for entry in os.listdir(tmp_path) if entry.startswith(".")]
