"""Where the machine code comes from: prebuilt, compiled, or not at all."""

import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

from treadle import native
from treadle.core import hardware
from treadle.core.errors import SettingsError
from treadle.native import compiler, loader

SCORE = np.array([[3, 1, 2, 1]], np.float32)
EXPECTED = [[True, False, True, True]]

needs_compiler = pytest.mark.skipif(compiler.find_compiler() is None, reason="no C compiler")


@pytest.fixture(autouse=True)
def empty_cache(tmp_path, monkeypatch):
    """Each test has its own cache folder, hence its own loaded kernels."""
    monkeypatch.setenv("TREADLE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("TREADLE_NATIVE", raising=False)
    monkeypatch.setattr(compiler, "OBJECTS", tmp_path / "objects")
    for remembered in (loader._warn_once, loader._warn_of_cache_once, loader._log_once):
        remembered.cache_clear()
    loader._load_for.cache_clear()


def compiled_objects(tmp_path):
    return sorted((tmp_path / "cache" / "native").glob("*.so"))


@needs_compiler
def test_the_first_use_compiles_only_what_is_used(tmp_path):
    assert not compiled_objects(tmp_path)
    assert native.keep_rows(SCORE, 1).tolist() == EXPECTED
    [made] = compiled_objects(tmp_path)
    assert made.name.startswith("mask-")
    found = native.status()
    assert (found.active, found.path, found.isa) == ("compiled", made.parent, "native")
    assert sorted(made.parent.iterdir()) == compiled_objects(tmp_path)  # nothing lies beside
    assert len(compiled_objects(tmp_path)) == len(compiler.KERNELS)


@needs_compiler
def test_a_second_process_uses_the_cached_object(tmp_path, monkeypatch):
    native.keep_rows(SCORE, 1)
    loader._find.cache_clear()
    loader._load_for.cache_clear()
    monkeypatch.setattr(compiler, "compile_object", pytest.fail)
    assert native.keep_rows(SCORE, 1).tolist() == EXPECTED


@needs_compiler
@pytest.mark.parametrize("damage", ["truncate", "flip", "empty"])
def test_a_damaged_object_is_rebuilt(tmp_path, damage):
    tool = compiler.find_compiler()
    name = compiler.object_name("mask", tool, hardware.instruction_set())
    path = tmp_path / "cache" / "native" / name
    compiler.compile_object("mask", tool, "native", path)
    assert compiler.is_sealed(path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    damaged = {"truncate": content[:-100], "flip": content, "empty": b""}[damage]
    path.write_bytes(damaged)
    assert not compiler.is_sealed(path)
    assert native.keep_rows(SCORE, 1).tolist() == EXPECTED
    assert compiler.is_sealed(path)


@needs_compiler
def test_the_object_changes_name_with_processor_compiler_and_source(tmp_path, monkeypatch):
    tool = compiler.Compiler(("/usr/bin/cc",), "cc 12")
    names = {
        compiler.object_name("mask", tool, frozenset({"avx2"})),
        compiler.object_name("mask", tool, frozenset({"avx2", "avx512f"})),
        compiler.object_name("mask", tool._replace(version="cc 13"), frozenset({"avx2"})),
        compiler.object_name("obs", tool, frozenset({"avx2"})),
    }
    before = compiler.prebuilt_name("mask")
    shutil.copytree(compiler.SOURCES, tmp_path / "sources")
    monkeypatch.setattr(compiler, "SOURCES", tmp_path / "sources")
    with (tmp_path / "sources" / "mask.c").open("a") as source:
        source.write("/* changed */\n")
    names.add(compiler.object_name("mask", tool, frozenset({"avx2"})))
    assert len(names) == 5
    assert compiler.prebuilt_name("mask") != before


@needs_compiler
def test_processes_may_race_for_the_same_object(tmp_path):
    code = (
        "import numpy as np; from treadle import native\n"
        "print(native.keep_rows(np.float32([[3, 1, 2, 1]]), 1).tolist())"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    racers = [
        subprocess.Popen(
            [sys.executable, "-W", "error", "-c", code],
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    answers = [racer.communicate(timeout=120)[0] for racer in racers]
    assert answers == [f"{EXPECTED}\n"] * 3
    [made] = (tmp_path / "cache" / "native").iterdir()
    assert compiler.is_sealed(made)


def test_without_a_compiler_the_twins_work_and_warn_exactly_once(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    error = np.zeros_like(SCORE)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(2):
            assert native.keep_rows(SCORE, 1).tolist() == EXPECTED
            keep = np.ones(SCORE.shape, np.bool_)
            native.obs_block(SCORE.copy(), np.eye(4, dtype=np.float32), keep, error)
    [warning] = caught
    assert warning.category is native.SlowPathWarning
    assert "no cc, gcc or clang on the path" in str(warning.message)
    assert "Install a C compiler (apt-get install gcc) and let TREADLE_CACHE" in str(
        warning.message
    )
    assert native.status().active == "python"


def test_a_wrong_cc_is_named(monkeypatch):
    monkeypatch.setenv("CC", "no-such-compiler -m64")
    with pytest.warns(native.SlowPathWarning, match=r"\$CC names 'no-such-compiler -m64'"):
        native.keep_rows(SCORE, 1)


@needs_compiler
def test_a_compiler_that_refuses_the_source_is_quoted(monkeypatch):
    monkeypatch.setenv("CC", f"{compiler.find_compiler().command[0]} -fno-such-option")
    with pytest.warns(native.SlowPathWarning, match=r"(?s)refused mask\.c.*-fno-such-option"):
        assert native.keep_rows(SCORE, 1).tolist() == EXPECTED


@needs_compiler
def test_a_cache_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TREADLE_CACHE", str(tmp_path / "file"))
    says = r"for this process alone: '.*/file/native' cannot be written \(.*TREADLE_CACHE name a"
    with pytest.warns(native.SlowPathWarning, match=says):
        assert native.keep_rows(SCORE, 1).tolist() == EXPECTED
    assert loader._load("mask").status.active == "compiled"
    assert loader.library("obs") is not None  # and no second warning


@needs_compiler
def test_compiling_is_logged_once_with_its_place(tmp_path, caplog):
    assert loader.library("mask") is not None
    assert loader.library("obs") is not None
    [record] = caplog.records
    assert record.levelname == "WARNING"
    assert f"kept in '{tmp_path / 'cache' / 'native'}'" in record.message


def test_the_switch_takes_only_zero_and_one(monkeypatch):
    monkeypatch.setenv("TREADLE_NATIVE", "false")
    with pytest.raises(SettingsError, match=r"\$TREADLE_NATIVE='false'.*expected 0 .* or 1.*unset"):
        native.keep_rows(SCORE, 1)


@needs_compiler
@pytest.mark.skipif(
    not hardware.instruction_set() >= compiler.BASELINE_FLAGS, reason="not an x86-64-v3 processor"
)
def test_a_prebuilt_object_needs_no_compiler(tmp_path, monkeypatch):
    for kernel in compiler.KERNELS:
        target = compiler.OBJECTS / compiler.prebuilt_name(kernel)
        compiler.compile_object(kernel, compiler.find_compiler(), compiler.BASELINE, target)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert native.keep_rows(SCORE, 1).tolist() == EXPECTED
    found = native.status()
    assert (found.active, found.path, found.isa) == ("prebuilt", compiler.OBJECTS, "x86-64-v3")
    assert not (tmp_path / "cache").exists()


@needs_compiler
def test_a_prebuilt_object_for_a_better_processor_is_left_alone(monkeypatch):
    target = compiler.OBJECTS / compiler.prebuilt_name("mask")
    compiler.compile_object("mask", compiler.find_compiler(), "native", target)
    monkeypatch.setattr(loader, "instruction_set", lambda: frozenset({"sse2"}))
    native.keep_rows(SCORE, 1)
    assert native.status().active == "compiled"


def test_the_compiler_module_stands_alone(tmp_path):
    """The wheel's build hook loads it where neither treadle nor its dependencies exist."""
    copy = Path(shutil.copy(compiler.__file__, tmp_path / "alone.py"))
    subprocess.run([sys.executable, "-I", "-S", str(copy)], check=True, timeout=60)
