"""Where the machine code comes from: prebuilt, compiled, or not at all."""

import ctypes
import os
import re
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
from treadle.native.build import build

SCORE = np.array([[3, 1, 2, 1]], np.float32)
EXPECTED = [[True, False, True, True]]

needs_compiler = pytest.mark.skipif(compiler.find_compiler() is None, reason="no C compiler")


@pytest.fixture(autouse=True)
def empty_cache(tmp_path, monkeypatch):
    """Each test has its own cache folder, hence its own loaded kernels."""
    monkeypatch.setenv("TREADLE_CACHE", str(tmp_path / "cache"))
    for name in ("TREADLE_NATIVE", "TREADLE_LEVEL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(compiler, "OBJECTS", tmp_path / "objects")
    for remembered in (loader._warn_once, loader._warn_of_cache_once):
        remembered.cache_clear()
    loader._load_for.cache_clear()


@pytest.fixture
def small(monkeypatch):
    """Leave the large kernel out, which these tests would compile for nothing."""
    monkeypatch.setattr(compiler, "KERNELS", ("mask", "codes"))


def make(kernel, level, target):
    compiler.compile_objects(
        [compiler.CompileJob(kernel, level, target)], compiler.find_compiler(), 2
    )


def best():
    return (*compiler.fitting_levels(hardware.instruction_set()), compiler.NATIVE)[0]


def compiled_objects(tmp_path):
    return sorted((tmp_path / "cache" / "native").glob("*.so"))


@needs_compiler
def test_the_first_use_compiles_only_what_is_used(tmp_path, small):
    assert not compiled_objects(tmp_path)
    assert native.keep_rows(SCORE, 1).tolist() == EXPECTED
    [made] = compiled_objects(tmp_path)
    assert made.name.startswith("mask-")
    found = native.status()
    assert (found.active, found.path, found.isa) == ("compiled", made.parent, best().name)
    beside = {file.name for file in made.parent.iterdir()}
    assert beside == {file.name for file in compiled_objects(tmp_path)} | {"lock"}
    assert len(compiled_objects(tmp_path)) == len(compiler.KERNELS)


@needs_compiler
def test_a_second_process_uses_the_cached_object(tmp_path, monkeypatch):
    native.keep_rows(SCORE, 1)
    loader._find.cache_clear()
    loader._load_for.cache_clear()
    monkeypatch.setattr(compiler, "compile_objects", pytest.fail)
    assert native.keep_rows(SCORE, 1).tolist() == EXPECTED


@needs_compiler
@pytest.mark.parametrize("damage", ["truncate", "flip", "empty"])
def test_a_damaged_object_is_rebuilt(tmp_path, damage):
    tool = compiler.find_compiler()
    name = compiler.object_name("codes", best(), tool, hardware.instruction_set())
    path = tmp_path / "cache" / "native" / name
    make("codes", best(), path)
    assert compiler.is_sealed(path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    damaged = {"truncate": content[:-100], "flip": content, "empty": b""}[damage]
    path.write_bytes(damaged)
    assert not compiler.is_sealed(path)
    assert loader.library("codes") is not None
    assert compiler.is_sealed(path)


@needs_compiler
def test_the_object_changes_name_with_all_that_it_is_made_from(tmp_path, monkeypatch):
    tool = compiler.Compiler(("/usr/bin/cc",), "cc 12")
    v3, native = compiler.LEVELS[-1], compiler.NATIVE

    def name(kernel="step", level=native, tool=tool, has=frozenset({"avx2"})):
        return compiler.object_name(kernel, level, tool, has)

    names = {
        name(),
        name(has=frozenset({"avx2", "avx512f"})),
        name(tool=tool._replace(version="cc 13")),
        name("obs"),
        name(level=v3),
    }
    assert name(level=v3) == name(level=v3, has=frozenset())  # a level is the same everywhere
    before = compiler.prebuilt_name("step", v3)
    shutil.copytree(compiler.SOURCES, tmp_path / "sources")
    monkeypatch.setattr(compiler, "SOURCES", tmp_path / "sources")
    for file in ("step.c", "step_q8.c", "step_codes.h", "mirror.h", "blocks.h"):
        with (tmp_path / "sources" / file).open("a") as source:
            source.write("/* changed */\n")
        names |= {name(), compiler.prebuilt_name("step", v3)}
    (tmp_path / "sources" / "step_more.c").write_text("")
    names.add(name())
    assert len(names) == 5 + 2 * 5 + 1
    assert before not in names


@needs_compiler
def test_units_that_compile_in_parallel_are_one_object(tmp_path, monkeypatch):
    """Each unit is reported; and a unit that is refused is named."""
    monkeypatch.setattr(compiler, "SOURCES", tmp_path)
    for header in ("mirror.h", "blocks.h"):
        (tmp_path / header).write_text("")
    (tmp_path / "toy.c").write_text("int other(void);\nint answer(void) { return other(); }\n")
    (tmp_path / "toy_other.c").write_text(
        '#include "toy_number.h"\nint other(void) { return N; }\n'
    )
    (tmp_path / "toy_number.h").write_text("enum { N = 42 };\n")
    jobs, seen = [compiler.CompileJob("toy", best(), tmp_path / f"{n}.so") for n in "ab"], []
    compiler.compile_objects(jobs, compiler.find_compiler(), 4, lambda: seen.append(1))
    assert len(seen) == 2 * compiler.count_units("toy") == 4
    for job in jobs:
        assert compiler.is_sealed(job.target)
        assert ctypes.CDLL(str(job.target)).answer() == 42
    (tmp_path / "toy_other.c").write_text("#error no\n")
    with pytest.raises(compiler.CompileError, match=r"refused toy_other\.c"):
        compiler.compile_objects(jobs, compiler.find_compiler(), 4)


@needs_compiler
def test_of_processes_that_race_for_an_object_one_compiles(tmp_path):
    code = (
        "import pathlib, numpy as np; from treadle import native\n"
        "from treadle.native import compiler\n"
        "compiler.OBJECTS = pathlib.Path('none')\n"
        "print(native.keep_rows(np.float32([[3, 1, 2, 1]]), 1).tolist())"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    racers = [
        subprocess.Popen(
            [sys.executable, "-W", "error", "-c", code],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    answers, logs = zip(*(racer.communicate(timeout=120) for racer in racers), strict=True)
    assert answers == (f"{EXPECTED}\n",) * 3
    assert "".join(logs).count("Compiled the kernel 'mask'") == 1
    [made] = compiled_objects(tmp_path)
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
    assert "To mend: apt-get install gcc" in str(warning.message)
    assert native.status().active == "python"


def test_a_wrong_cc_is_named(monkeypatch):
    monkeypatch.setenv("CC", "no-such-compiler -m64")
    with pytest.warns(native.SlowPathWarning, match=r"\$CC names 'no-such-compiler -m64'"):
        native.keep_rows(SCORE, 1)


@needs_compiler
def test_a_compiler_that_refuses_the_source_is_quoted(monkeypatch):
    monkeypatch.setenv("CC", f"{compiler.find_compiler().command[0]} -fno-such-option")
    with pytest.warns(native.SlowPathWarning, match=r"(?s)refused mask.*-fno-such-option"):
        assert native.keep_rows(SCORE, 1).tolist() == EXPECTED


@needs_compiler
@pytest.mark.skipif(best() == compiler.NATIVE, reason="no level fits here")
def test_a_compiler_that_knows_no_levels_compiles_for_what_is_here(tmp_path, monkeypatch):
    old = tmp_path / "old-cc"
    refusal = 'case "$*" in *march=x86-64*) echo "bad value" >&2; exit 1;; esac'
    old.write_text(f'#!/bin/sh\n{refusal}\nexec {compiler.find_compiler().command[0]} "$@"\n')
    old.chmod(0o755)
    monkeypatch.setenv("CC", str(old))
    assert native.keep_rows(SCORE, 1).tolist() == EXPECTED
    assert loader._load("mask").status.isa == "native"
    monkeypatch.setenv("TREADLE_LEVEL", best().name)  # asked for, so nothing else will do
    with pytest.warns(native.SlowPathWarning, match=r"refused mask\.c: bad value"):
        native.keep_rows(SCORE, 1)


@needs_compiler
def test_a_cache_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TREADLE_CACHE", str(tmp_path / "file"))
    says = r"for this process alone: '.*/file/native' cannot be written \(.*TREADLE_CACHE name a"
    with pytest.warns(native.SlowPathWarning, match=says):
        assert native.keep_rows(SCORE, 1).tolist() == EXPECTED
    assert loader._load("mask").status.active == "compiled"
    assert loader.library("codes") is not None  # and no second warning


@needs_compiler
def test_compiling_is_logged_with_its_seconds_and_its_place(tmp_path, caplog):
    assert loader.library("mask") is not None
    [record] = caplog.records
    assert record.levelname == "WARNING"
    assert re.search(rf"kernel 'mask' for {best().name} in \d+\.\d seconds", record.message)
    assert f"kept in '{tmp_path / 'cache' / 'native'}'" in record.message


def test_the_switch_takes_only_zero_and_one(monkeypatch):
    monkeypatch.setenv("TREADLE_NATIVE", "false")
    with pytest.raises(SettingsError, match=r"\$TREADLE_NATIVE='false'.*expected 0 .* or 1.*unset"):
        native.keep_rows(SCORE, 1)


needs_level = pytest.mark.skipif(best() == compiler.NATIVE, reason="no level fits here")


@needs_compiler
@needs_level
def test_objects_made_before_need_no_compiler(tmp_path, monkeypatch, small):
    assert build() == len(compiler.KERNELS)
    assert build() == 0  # nothing is made twice
    monkeypatch.setenv("PATH", str(tmp_path))
    assert native.keep_rows(SCORE, 1).tolist() == EXPECTED
    found = native.status()
    assert (found.active, found.path, found.isa) == ("prebuilt", compiler.OBJECTS, best().name)
    assert "is the best level" in found.why
    assert not (tmp_path / "cache").exists()


@needs_compiler
@needs_level
def test_objects_of_changed_sources_are_left_alone_and_removed(tmp_path, monkeypatch, small):
    build()
    stale = compiler.OBJECTS / compiler.prebuilt_name("mask", best())
    shutil.copytree(compiler.SOURCES, tmp_path / "sources")
    monkeypatch.setattr(compiler, "SOURCES", tmp_path / "sources")
    with (tmp_path / "sources" / "mask.c").open("a") as source:
        source.write("/* changed */\n")
    native.keep_rows(SCORE, 1)
    assert native.status().active == "compiled"  # for this machine, into the cache
    assert stale.exists()
    assert build() == 1
    assert not stale.exists()


def test_a_build_without_a_compiler_says_so(tmp_path, monkeypatch, small):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    if best() != compiler.NATIVE:
        with pytest.raises(compiler.CompileError, match="install gcc"):
            build()


def test_the_best_level_that_fits_is_chosen():
    names = [level.name for level in compiler.LEVELS]
    assert names == ["x86-64-v4-vnni", "x86-64-v4", "x86-64-v3-vnni", "x86-64-v3"]
    *_, v3 = compiler.LEVELS
    assert compiler.fitting_levels(frozenset()) == []
    assert compiler.fitting_levels(v3.needs - {"fma"}) == []
    laptop, server = v3.needs | {"avx_vnni"}, compiler.LEVELS[0].needs
    assert [level.name for level in compiler.fitting_levels(laptop)] == names[2:]
    assert [level.name for level in compiler.fitting_levels(server)] == [*names[:2], names[3]]


@needs_compiler
@needs_level
def test_of_the_objects_that_are_there_the_best_is_chosen(monkeypatch, small):
    levels = compiler.fitting_levels(hardware.instruction_set())
    for kernel in compiler.KERNELS:
        make(kernel, levels[-1], compiler.OBJECTS / compiler.prebuilt_name(kernel, levels[-1]))
    found = native.status()
    assert (found.active, found.isa) == ("prebuilt", levels[-1].name)
    assert len(levels) == 1 or f"{levels[0].name} would fit" in found.why
    monkeypatch.setattr(loader, "instruction_set", lambda: frozenset({"sse2"}))
    loader._find.cache_clear()
    loader._load_for.cache_clear()
    found = native.status()  # none fits: compiled for whatever the processor has
    assert (found.active, found.isa) == ("compiled", "native")


@needs_compiler
@needs_level
def test_a_level_may_be_asked_for(monkeypatch, small):
    *_, worst = compiler.fitting_levels(hardware.instruction_set())
    for wanted in (worst.name, "native"):
        monkeypatch.setenv("TREADLE_LEVEL", wanted)
        assert native.keep_rows(SCORE, 1).tolist() == EXPECTED
        assert (native.status().active, native.status().isa) == ("compiled", wanted)
    monkeypatch.setenv("TREADLE_LEVEL", "x86-64-v9")
    with pytest.raises(SettingsError, match=r"\$TREADLE_LEVEL='x86-64-v9'.*Did you mean 'x86-64-v"):
        native.keep_rows(SCORE, 1)


def test_the_compiler_module_stands_alone(tmp_path):
    """The wheel's build hook loads it where neither treadle nor its dependencies exist."""
    copy = Path(shutil.copy(compiler.__file__, tmp_path / "alone.py"))
    subprocess.run([sys.executable, "-I", "-S", str(copy)], check=True, timeout=240)
