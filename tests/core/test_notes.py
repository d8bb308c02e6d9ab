"""Notes and hashes of files: what was found once is found again, and nothing else is."""

import errno
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from treadle.core import cache
from treadle.core.cache import note, noted
from treadle.core.checkpoint import seen
from treadle.core.checkpoint.hashing import file_hash
from treadle.core.checkpoint.seen import WEIGHTS, seen_hash


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr(cache, "cache_folder", lambda: tmp_path / "cache")
    return tmp_path / "cache"


def only(folder: Path) -> Path:
    (file,) = (folder / "kind").iterdir()
    return file


def test_floats_come_back_to_the_last_bit():
    values = np.random.default_rng(0).standard_normal(99).astype(np.float32) * np.float32(1e-30)
    note("kind", "key", {"values": values.tolist()}, 5)
    assert np.array_equal(np.asarray(noted("kind", "key")["values"], np.float32), values)
    assert noted("kind", "other") is None
    assert noted("other", "key") is None


@pytest.mark.parametrize("damage", [b"", b"{}", b"\n", b"\xff\xfe", None])
def test_a_damaged_note_counts_as_none(folder, damage):
    note("kind", "key", [1, 2, 3], 5)
    file = only(folder)
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + b"9" if damage is None else damage)
    assert noted("kind", "key") is None
    note("kind", "key", [1, 2, 3], 5)
    assert file.read_bytes() == whole


def test_the_oldest_notes_go(folder):
    for place in range(6):
        note("kind", str(place), place, 3)
        for file in (folder / "kind").iterdir():
            os.utime(file, ns=(file.stat().st_mtime_ns - 10**9,) * 2)
    assert [noted("kind", str(place)) for place in range(6)] == [None, None, None, 3, 4, 5]


def test_writers_beside_each_other_leave_whole_notes(folder):
    values = [[n] * 5000 for n in range(8)]
    note("kind", "key", values[0], 1)

    def write_and_read(value):
        note("kind", "key", value, 1)
        return noted("kind", "key")

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(write_and_read, values * 5))
    assert all(one in values for one in found)
    assert len(list((folder / "kind").iterdir())) == 1


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_a_folder_that_takes_no_notes_is_told_of_and_left(folder, number, monkeypatch, caplog):
    def refuse(*_, **__):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "write_bytes", refuse)
    note("kind", "key", 1, 5)
    assert noted("kind", "key") is None
    assert not list((folder / "kind").iterdir())
    assert "set TREADLE_CACHE" in caplog.text
    monkeypatch.setattr(Path, "mkdir", refuse)
    note("another", "key", 1, 5)


@pytest.fixture
def hashed(monkeypatch):
    """Return the files that are read; all of them are old enough to be noted."""
    found: list[Path] = []

    def counted(file):
        found.append(file)
        return file_hash(file)

    monkeypatch.setattr(seen, "file_hash", counted)
    monkeypatch.setattr(seen, "_YOUNG_NS", -(10**12))
    return found


def test_a_file_is_read_once_and_again_when_it_changed(tmp_path, hashed):
    file = tmp_path / "model.gguf"
    file.write_bytes(b"abc")
    first = seen_hash(file)
    assert first == seen_hash(file) == [["model.gguf", file_hash(file)]]
    assert len(hashed) == 1
    stat = file.stat()
    file.write_bytes(b"abd")
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert (file.stat().st_size, file.stat().st_mtime_ns) == (stat.st_size, stat.st_mtime_ns)
    assert seen_hash(file) == [["model.gguf", file_hash(file)]] != first
    other = tmp_path / "other"
    other.write_bytes(b"abe")
    shutil.copystat(file, other)
    other.replace(file)
    assert seen_hash(file) == [["model.gguf", file_hash(other if other.exists() else file)]]
    assert len(hashed) == 3


def test_a_folder_is_named_by_its_files_wherever_it_lies(tmp_path, hashed):
    one, other = tmp_path / "one", tmp_path / "other"
    one.mkdir()
    for name in ("config.json", "model.safetensors"):
        (one / name).write_text(name)
    (one / "inside").mkdir()
    assert [name for name, _ in seen_hash(one)] == ["config.json", "model.safetensors"]
    assert [name for name, _ in seen_hash(one, WEIGHTS)] == ["config.json"]
    shutil.copytree(one, other)
    assert seen_hash(other) == seen_hash(one)
    assert len(hashed) == 4
    (one / "more.json").write_text("{}")
    assert len(seen_hash(one)) == 3
    assert len(hashed) == 5


def test_what_changed_just_now_is_not_noted(tmp_path, hashed, monkeypatch):
    monkeypatch.setattr(seen, "_YOUNG_NS", 10**12)
    file = tmp_path / "model.gguf"
    file.write_bytes(b"abc")
    assert seen_hash(file) == seen_hash(file)
    assert len(hashed) == 2
