"""What goes wrong on the way to machine code: full disks, no home, odd compilers, old systems."""

import ctypes
import errno
import os
import shutil
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from treadle import native
from treadle.core import cache, hardware
from treadle.core.errors import SettingsError, TreadleError
from treadle.native import build, compiler, loader

CDLL = ctypes.CDLL
REAL = compiler.find_compiler()
needs_compiler = pytest.mark.skipif(REAL is None, reason="no C compiler")
LEVELS = (*compiler.fitting_levels(hardware.instruction_set()), compiler.NATIVE)


@pytest.fixture(autouse=True)
def toy(tmp_path, monkeypatch):
    """A kernel that compiles at once, in an empty cache."""
    monkeypatch.setenv("TREADLE_CACHE", str(tmp_path / "cache"))
    for name in ("TREADLE_NATIVE", "TREADLE_LEVEL", "CC"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "sources").mkdir()
    for header in ("mirror.h", "blocks.h"):
        (tmp_path / "sources" / header).write_text("")
    (tmp_path / "sources" / "toy.c").write_text("int answer(void) { return 42; }\n")
    (tmp_path / "usual").mkdir()
    (tmp_path / "more").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "usual"))
    monkeypatch.setattr(loader, "_MORE_PLACES", (str(tmp_path / "more"),))
    monkeypatch.setattr(compiler, "SOURCES", tmp_path / "sources")
    monkeypatch.setattr(compiler, "OBJECTS", tmp_path / "objects")
    monkeypatch.setattr(compiler, "KERNELS", ("toy",))
    for remembered in (loader._warn_once, loader._warn_of_cache_once, loader._find):
        remembered.cache_clear()
    loader._load_for.cache_clear()
    return tmp_path


def script(path, text):
    path.write_text(text)
    path.chmod(0o755)
    return str(path)


def found():
    loader._find.cache_clear()
    loader._load_for.cache_clear()
    return loader._load("toy")


def refuse(monkeypatch, what):
    """Let the loader of the system refuse a file, or what lies in a folder."""

    def load(path):
        if what in (Path(path), *Path(path).parents):
            raise OSError("version `GLIBC_9.99' not found")
        return CDLL(path)

    monkeypatch.setattr(loader.ctypes, "CDLL", load)


@needs_compiler
@pytest.mark.parametrize("words", ["No space left on device", "Disk quota exceeded"])
def test_a_full_cache_disk_is_named_and_another_place_taken(toy, monkeypatch, words):
    full = f'case "$*" in *{toy}/cache*) echo "ld: {words}" >&2; exit 1;; esac'
    monkeypatch.setenv("CC", script(toy / "cc", f'#!/bin/sh\n{full}\nexec {REAL.command[0]} "$@"'))
    with pytest.warns(
        native.SlowPathWarning, match=rf"'{toy}/cache/native' cannot be written .*{words}"
    ):
        assert loader.library("toy").answer() == 42
    status = native.status()
    assert (status.active, status.path) == ("compiled", None)
    assert "let TREADLE_CACHE name" in status.mend
    assert not list((toy / "usual").iterdir())


@needs_compiler
def test_a_linker_that_dies_on_a_full_disk_without_a_word_is_understood(toy, monkeypatch):
    usage = SimpleNamespace(free=4096)
    real = shutil.disk_usage
    monkeypatch.setattr(
        compiler.shutil,
        "disk_usage",
        lambda place: usage if "cache" in str(place) else real(place),
    )
    dies = f'case "$*" in *{toy}/cache*) kill -BUS $$;; esac'
    monkeypatch.setenv("CC", script(toy / "cc", f'#!/bin/sh\n{dies}\nexec {REAL.command[0]} "$@"'))
    with pytest.warns(native.SlowPathWarning, match=r"No space left.*4096 bytes are free"):
        assert loader.library("toy").answer() == 42


@needs_compiler
@pytest.mark.parametrize("is_cache_full", [False, True])
def test_a_full_folder_of_temporary_files_is_not_used(toy, monkeypatch, is_cache_full):
    full = ["usual", *(["cache"] if is_cache_full else [])]

    def usage(place):
        if any(name in Path(place).parts for name in full):
            return SimpleNamespace(free=0)
        return SimpleNamespace(free=1 << 30)

    monkeypatch.setattr(compiler.shutil, "disk_usage", usage)
    real = compiler._answer

    def answer(command, scratch=None):
        assert scratch is None or toy / "usual" not in scratch.parents or is_cache_full
        target = command[-1] if "-o" in command else ""
        if any(f"{toy}/{name}/" in target for name in full):
            return SimpleNamespace(returncode=1, stderr="Fatal error", stdout="")
        return real(command, scratch)

    monkeypatch.setattr(compiler, "_answer", answer)
    if is_cache_full:
        with pytest.warns(native.SlowPathWarning, match="No space left on device"):
            assert loader.library("toy").answer() == 42
    else:
        assert found().status.path == toy / "cache" / "native"
    assert found().library.answer() == 42


@needs_compiler
def test_where_no_place_takes_a_program_each_is_named(toy, monkeypatch):
    refuse(monkeypatch, toy)
    with pytest.warns(native.SlowPathWarning, match=r"noexec.*not in '.*/usual'.*'.*/more'.*CACHE"):
        assert loader.library("toy") is None


@needs_compiler
def test_a_cache_that_forbids_programs_is_said_to(toy, monkeypatch):
    refuse(monkeypatch, toy / "cache")
    with pytest.warns(
        native.SlowPathWarning, match=r"cache/native' cannot be loaded, maybe .*noex"
    ):
        assert loader.library("toy").answer() == 42
    assert "cannot be written" not in native.status().why


def homeless(monkeypatch):
    for name in ("HOME", "TREADLE_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)

    def home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(cache.Path, "home", home)


def made(level):
    target = compiler.OBJECTS / compiler.prebuilt_name("toy", level)
    compiler.compile_objects([compiler.CompileJob("toy", level, target)], REAL, 1)


@needs_compiler
def test_who_has_no_home_loads_what_was_made_before_or_compiles_for_himself(monkeypatch):
    homeless(monkeypatch)
    with pytest.raises(SettingsError, match=r"no home folder of user \d+.*TREADLE_CACHE name a"):
        cache.cache_folder()
    with pytest.warns(native.SlowPathWarning, match=r"this process alone: there is no home folder"):
        assert loader.library("toy").answer() == 42
    if len(LEVELS) > 1:
        made(LEVELS[0])
        assert found().status.active == "prebuilt"


@needs_compiler
@pytest.mark.skipif(len(LEVELS) < 2, reason="no level fits here")
def test_an_object_that_cannot_be_loaded_gives_way_to_the_next(toy, monkeypatch):
    made(LEVELS[0])
    refuse(monkeypatch, toy / "objects")
    status = found().status
    assert (status.active, status.path) == ("compiled", toy / "cache" / "native")
    assert "because an object of the package cannot be loaded (version `GLIBC_9.99'" in status.why
    if len(LEVELS) > 2:
        made(LEVELS[1])
        refuse(monkeypatch, toy / "objects" / compiler.prebuilt_name("toy", LEVELS[0]))
        status = found().status
        assert (status.active, status.isa) == ("prebuilt", LEVELS[1].name)
        assert "cannot be loaded (version" in status.why


ODD = {
    "no command line": ('gcc "', r"""\$CC names 'gcc "', which does not run"""),
    "no program": ("{folder}/text", r"\$CC names '.*/text', which does not run"),
    "makes nothing": ("/usr/bin/true", r"\$CC names '/usr/bin/true', which makes no object of toy"),
    "latin": ("{folder}/latin", r"\$CC names '.*/latin', which refused toy.c: Fehler: .*chlich"),
}


@pytest.mark.parametrize("which", ODD)
def test_an_odd_compiler_is_named(toy, monkeypatch, which):
    chosen, says = ODD[which]
    script(toy / "text", "hello")
    script(toy / "latin", '#!/bin/sh\n[ "$1" = --version ] && exit\nprintf "Fehler: s\\344chlich"')
    with (toy / "latin").open("a") as file:
        file.write(" >&2; exit 1\n")
    monkeypatch.setenv("CC", chosen.format(folder=toy))
    with pytest.warns(native.SlowPathWarning, match=says) as caught:
        assert loader.library("toy") is None
    assert "cannot be written" not in str(caught[0].message)
    assert native.status().mend == "unset CC, or let it name a C compiler"


@needs_compiler
@pytest.mark.parametrize("level", [LEVELS[0].name, "native"])
def test_a_level_that_is_asked_for_is_the_reason(monkeypatch, level):
    monkeypatch.setenv("TREADLE_LEVEL", level)
    why = found().status.why
    assert "TREADLE_LEVEL asks for" in why
    assert "carries no fitting" not in why


def test_what_is_switched_off_is_switched_on_again(monkeypatch):
    monkeypatch.setenv("TREADLE_NATIVE", "0")
    assert native.status().mend == "unset TREADLE_NATIVE"


@needs_compiler
def test_what_killed_compiles_left_is_removed(toy):
    prefix = compiler._WORKPLACE
    old, new, other = (toy / "usual" / name for name in (f"{prefix}old", f"{prefix}new", "mine"))
    for place in (old, new, other):
        place.mkdir()
        (place / "file").write_text("")
        os.utime(place, (0, 0) if place != new else (time.time(),) * 2)
    assert found().library.answer() == 42
    assert {path.name for path in (toy / "usual").iterdir()} == {new.name, "mine"}


def test_every_option_is_in_the_name_of_an_object(monkeypatch):
    names = {compiler.prebuilt_name("toy", compiler.NATIVE)}
    for options in ("_FLAGS", "_UNLESS_CLANG", "_LINKING"):
        monkeypatch.setattr(compiler, options, (*getattr(compiler, options), "-more"))
        names.add(compiler.prebuilt_name("toy", compiler.NATIVE))
    assert len(names) == 4


@needs_compiler
def test_a_kernel_that_says_nothing_of_its_structs_is_named():
    class Thing(ctypes.Structure):
        _fields_ = (("field", ctypes.c_int32),)

    with pytest.raises(TreadleError, match=r"kernel 'toy' has no function 'mirrored'"):
        loader.library("toy", Thing)


@pytest.mark.parametrize(("arguments", "code"), [(["--help"], 0), (["--al"], 2), (["all", "x"], 2)])
def test_a_build_that_is_asked_for_something_else_says_how(monkeypatch, capsys, arguments, code):
    monkeypatch.setattr(build, "build", pytest.fail)
    assert build.main(arguments) == code
    assert "usage: python -m treadle.native.build [all]" in "".join(capsys.readouterr())


def test_a_build_that_can_make_nothing_says_why(monkeypatch, caplog):
    caplog.set_level("INFO")

    def cannot(_):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(build, "build", cannot)
    monkeypatch.setattr(build, "instruction_set", lambda: compiler.LEVELS[0].needs)
    assert build.main([]) == 0
    assert f"'{compiler.OBJECTS}' cannot be written ([Errno 30] Read-only" in caplog.text
    monkeypatch.setattr(build, "instruction_set", frozenset)
    assert build.main([]) == 0
    assert "none of the levels fits" in caplog.text
