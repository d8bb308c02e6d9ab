"""One run at a time holds an output; the lock goes with the process, and leaves nothing."""

import errno
import os
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest

from treadle.core.claim import claimed
from treadle.core.disk import save_array, system_errors, told
from treadle.core.errors import CapacityError, DataError, SettingsError

HOLDER = """
    import sys, time
    from pathlib import Path
    from treadle.core.claim import claimed
    with claimed(Path(sys.argv[1]), is_shared=len(sys.argv) > 2):
        print("held", flush=True)
        sys.stdin.readline()
"""


def holder(out: Path, *words: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", textwrap.dedent(HOLDER), str(out), *words]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_another_process_is_named_and_its_end_lets_go(tmp_path: Path) -> None:
    out = tmp_path / "out"
    other = holder(out)
    says = rf"is being written by process {other.pid} on "
    with pytest.raises(SettingsError, match=says), claimed(out):
        pass
    other.send_signal(signal.SIGKILL)
    other.communicate()
    assert (tmp_path / ".out.lock").exists(), "a killed process tidies nothing"
    with claimed(out):
        assert (tmp_path / ".out.lock").read_text().startswith(f"process {os.getpid()} on ")
    assert not list(tmp_path.iterdir())


def test_shares_hold_it_together_and_the_last_tidies(tmp_path: Path) -> None:
    out = tmp_path / "out"
    other = holder(out, "shared")
    with claimed(out, is_shared=True):
        pass
    with pytest.raises(SettingsError, match="is being written by"), claimed(out):
        pass
    other.communicate("\n")
    with claimed(out):
        pass
    assert not list(tmp_path.iterdir())


def test_who_waits_comes_next(tmp_path: Path) -> None:
    out, order = tmp_path / "out", []
    with claimed(out):

        def wait() -> None:
            with claimed(out, waits=True):
                order.append("second")

        thread = threading.Thread(target=wait)
        thread.start()
        order.append("first")
    thread.join()
    assert order == ["first", "second"]
    assert not list(tmp_path.iterdir())


def test_parts_of_a_whole_run_are_a_part_of_its_claim(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with claimed(out, is_whole=True):
        with claimed(out):
            pass
        with pytest.raises(SettingsError), claimed(out, is_whole=True):
            pass
        assert (tmp_path / ".out.lock").exists()
    with claimed(out), pytest.raises(SettingsError), claimed(out):
        pass


def test_folders_above_come_and_go(tmp_path: Path) -> None:
    deep = tmp_path / "a" / "b" / "out"
    with pytest.raises(AssertionError), claimed(deep):
        assert not deep.parent.is_dir()
    assert not list(tmp_path.iterdir())
    with claimed(deep):
        pass
    assert deep.parent.is_dir()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_no_room(number: int, tmp_path: Path) -> None:
    says = r"no room for '.*out' \(.*\): what was there before stays"
    with pytest.raises(CapacityError, match=says), told(tmp_path / "out"):
        raise OSError(number, os.strerror(number))
    with pytest.raises(CapacityError), told(None), system_errors():
        raise RuntimeError(f"I/O error: broken (os error {number})")


@pytest.mark.parametrize(
    ("name", "kind", "says"),
    [
        ("out/file", SettingsError, "out' cannot be written"),
        (".out.partial/file", SettingsError, "out' cannot be written"),
        ("", SettingsError, "out' cannot be written"),
        ("corpus.jsonl", DataError, "corpus.jsonl' cannot be used"),
        (".other.partial/file", DataError, "file' cannot be used"),
    ],
)
def test_what_may_not_be_used(name: str, kind: type[Exception], says: str, tmp_path: Path) -> None:
    with pytest.raises(kind, match=says), told(tmp_path / "out"):
        raise PermissionError(errno.EACCES, "Permission denied", str(tmp_path / name))
    with pytest.raises(RuntimeError), told(tmp_path / "out"), system_errors():
        raise RuntimeError("something else")
    with pytest.raises(BrokenPipeError), told(tmp_path / "out"):
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")


def test_arrays_see_a_full_disk(tmp_path: Path) -> None:
    import numpy as np

    array = np.arange(5, dtype=np.int64).reshape(5, 1)
    with (tmp_path / "a.npy").open("wb") as stream:
        save_array(stream, array)
    assert np.array_equal(np.load(tmp_path / "a.npy"), array)
    with pytest.raises(OSError, match="No space left"), Path("/dev/full").open("wb") as stream:
        save_array(stream, np.zeros(100_000))
