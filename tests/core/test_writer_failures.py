import errno
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from written_models import MANIFEST, PLAN, begin, bytes_of, left_in, values_of, write_model

from treadle.core.checkpoint import (
    content_hash,
)
from treadle.core.errors import CapacityError, SettingsError


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TREADLE_CACHE", str(tmp_path / "cache"))


def test_an_exception_keeps_what_is_done(tmp_path: Path) -> None:
    def interrupted_run() -> None:
        with begin(tmp_path / "out") as writer:
            writer.write("a", values_of(PLAN[0]))
            writer.mark_done(["a"])
            writer.write("b", values_of(PLAN[1]))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted_run()
    with begin(tmp_path / "out") as writer:
        assert writer.done == {"a"}
        np.testing.assert_array_equal(writer.read("a"), values_of(PLAN[0]))
        for tensor in PLAN[1:]:
            writer.write(tensor.name, values_of(tensor))
        writer.finish(MANIFEST, "card\n")
    assert bytes_of(tmp_path / "out") == bytes_of(write_model(tmp_path / "direct"))


@pytest.mark.parametrize(
    "change",
    [{"fingerprint": "g"}, {"plan": PLAN[:2]}, {"plan": [PLAN[0]._replace(name="A"), *PLAN[1:]]}],
)
def test_another_run_is_not_resumed(
    tmp_path: Path, change: dict, caplog: pytest.LogCaptureFixture
) -> None:
    with begin(tmp_path / "out") as writer:
        for tensor in PLAN[:2]:
            writer.write(tensor.name, values_of(tensor))
        writer.mark_done(["a", "b"])
    assert not caplog.text
    with begin(tmp_path / "out", **change) as writer:
        assert writer.done == set()
        assert not writer.read("b").any()
    assert "Discarding" in caplog.text
    assert "begun with other settings or inputs" in caplog.text


def test_a_torn_journal_line_is_forgotten(tmp_path: Path) -> None:
    with begin(tmp_path / "out") as writer:
        writer.write("a", values_of(PLAN[0]))
        writer.mark_done(["a"])
    with (tmp_path / ".out.partial" / ".treadle-journal").open("a") as journal:
        journal.write('["b"')
    with begin(tmp_path / "out") as writer:
        assert writer.done == {"a"}
        writer.write("c", values_of(PLAN[2]))
        writer.mark_done(["c"])
    with begin(tmp_path / "out") as writer:
        assert writer.done == {"a", "c"}


def test_a_damaged_journal_begins_anew(tmp_path: Path) -> None:
    with begin(tmp_path / "out") as writer:
        writer.write("a", values_of(PLAN[0]))
        writer.mark_done(["a"])
    (tmp_path / ".out.partial" / ".treadle-journal").write_bytes(bytes(20) + b"\n")
    with begin(tmp_path / "out") as writer:
        assert writer.done == set()


def test_two_writers_of_one_folder_are_refused(tmp_path: Path) -> None:
    with (
        begin(tmp_path / "out"),
        pytest.raises(SettingsError, match=r"is being written by process \d+ on .*; wait for it"),
    ):
        begin(tmp_path / "out")


KILLED = """
    import os, signal, sys
    from pathlib import Path
    sys.path.insert(0, str(Path(sys.argv[1])))
    from written_models import PLAN, begin, values_of

    with begin(Path(sys.argv[2])) as writer:
        for tensor in PLAN[:2]:
            writer.write(tensor.name, values_of(tensor))
        writer.mark_done(["a", "b"])
        writer.write("c", values_of(PLAN[2]) + 1)
        os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_run_resumes_to_the_same_bytes(tmp_path: Path) -> None:
    command = [sys.executable, "-c", textwrap.dedent(KILLED)]
    killed = subprocess.run([*command, str(Path(__file__).parent), str(tmp_path / "out")])
    assert killed.returncode == -signal.SIGKILL
    with begin(tmp_path / "out") as writer:
        assert writer.done == {"a", "b"}
        for tensor in PLAN[2:]:
            writer.write(tensor.name, values_of(tensor))
        writer.finish(MANIFEST, "card\n")
    assert bytes_of(tmp_path / "out") == bytes_of(write_model(tmp_path / "direct"))


# A full disk


def test_too_small_a_disk_is_known_beforehand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = type("Usage", (), {"free": 17})
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    with pytest.raises(
        CapacityError, match=r"/out needs \d+ bytes, but its disk has 17 bytes free"
    ):
        begin(tmp_path / "out")
    assert left_in(tmp_path) == set()


@pytest.mark.parametrize("function", ["posix_fallocate", "pwrite", "fsync"])
def test_a_full_disk_leaves_the_old_and_nothing_else(
    tmp_path: Path, function: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = bytes_of(write_model(tmp_path / "out"))

    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, function, fail)
        with pytest.raises(
            CapacityError, match=r"filled up while .*/out was written, .* Free space"
        ):
            write_model(tmp_path / "out", overwrite=True)
    assert left_in(tmp_path) == {"out"}
    assert bytes_of(tmp_path / "out") == old


def test_a_disk_that_fills_later_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.EDQUOT, "Disk quota exceeded")

    with begin(tmp_path / "out") as writer:
        writer.write("a", values_of(PLAN[0]))
        with monkeypatch.context() as patch:
            patch.setattr(os, "pwrite", fail)
            with pytest.raises(CapacityError):
                writer.write("b", values_of(PLAN[1]))
    assert left_in(tmp_path) == set()


@pytest.mark.parametrize(("code", "is_fatal"), [(errno.EOPNOTSUPP, False), (errno.EIO, True)])
def test_a_file_system_that_cannot_reserve(
    tmp_path: Path, code: int, is_fatal: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(code, "no")

    monkeypatch.setattr(os, "posix_fallocate", fail)
    if is_fatal:
        with pytest.raises(OSError, match="no"):
            begin(tmp_path / "out")
    else:
        assert content_hash(write_model(tmp_path / "out"))
