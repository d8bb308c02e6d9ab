"""Finds the machine code of a kernel: made before its use, else compiled here, else none."""

import ctypes
import functools
import logging
import os
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from treadle.core.cache import cache_folder, locked
from treadle.core.errors import SettingsError
from treadle.core.hardware import instruction_set, usable_cores
from treadle.core.progress import steps
from treadle.core.registry import near
from treadle.native import compiler
from treadle.native.compiler import Level
from treadle.native.mirror import Mirror, require_same

__all__ = ["NativeStatus", "SlowPathWarning", "library", "status"]

_logger = logging.getLogger(__name__)
_SWITCH, _LEVEL = "TREADLE_NATIVE", "TREADLE_LEVEL"
_ENVIRONMENT = (_SWITCH, _LEVEL, "TREADLE_CACHE", "XDG_CACHE_HOME", "HOME")
_MORE_PLACES = ("/dev/shm", "/var/tmp")  # each compile makes a folder of its own there


class SlowPathWarning(UserWarning):
    """Something runs much slower than it could, for want of a compiler or a package."""


class NativeStatus(NamedTuple):
    """Where the kernels come from, for the doctor."""

    active: Literal["prebuilt", "compiled", "python"]
    path: Path | None
    """The folder of the loaded objects."""
    compiler: str | None
    isa: str
    """The level of instructions that the objects are made for."""
    why: str
    fitting: tuple[str, ...] = ()
    """The levels that this processor runs, the best first."""
    mend: str = ""
    """What to do for faster kernels, or for keeping them; empty where all is well."""


class _Kernel(NamedTuple):
    library: ctypes.CDLL | None
    status: NativeStatus


def library(kernel: str, *mirrors: Mirror) -> ctypes.CDLL | None:
    """Return the loaded kernel, or None where its Python twin has to do the work.

    The first call may compile for some seconds. Calls into the library release the interpreter's
    lock.

    Args:
        kernel: Its name.
        mirrors: The structs that the caller hands to it; they are compared with C's once.

    Raises:
        SettingsError: `$TREADLE_NATIVE` is neither 0 nor 1, or `$TREADLE_LEVEL` cannot run here.
        TreadleError: A struct is another one in C.
    """
    found = _load(kernel, mirrors)
    if found.library is None and not _is_switched_off():
        _warn_once(found.status.why, found.status.mend)
    return found.library


def status() -> NativeStatus:
    """Return where the kernels come from; of several answers, the one of the slowest kernel."""
    speeds = ("python", "compiled", "prebuilt")
    found = (_load(name).status for name in compiler.KERNELS)
    slowest = min(found, key=lambda status: (speeds.index(status.active), not status.mend))
    fitting = compiler.fitting_levels(instruction_set())
    return slowest._replace(fitting=tuple(level.name for level in fitting))


def _levels() -> list[Level]:
    """Return the levels of objects to look for, the best first."""
    fitting = compiler.fitting_levels(instruction_set())
    wanted = _wanted()
    if not wanted:
        return fitting
    allowed = {level.name: level for level in (*fitting, compiler.NATIVE)}
    if wanted not in allowed:
        raise SettingsError(
            f"Found ${_LEVEL}='{wanted}' in the environment, expected a level that this processor "
            f"runs. {near(wanted, allowed)}"
        )
    return [allowed[wanted]]


def _load(kernel: str, mirrors: tuple[Mirror, ...] = ()) -> _Kernel:
    # What the environment says is the key, because kernels are asked for thousands of times a
    # second, and a path takes longer to build than a short run to compute.
    return _load_for(kernel, mirrors, *map(os.environ.get, _ENVIRONMENT))


@functools.cache
def _load_for(kernel: str, mirrors: tuple[Mirror, ...], *environment: str | None) -> _Kernel:
    if _is_switched_off():
        return _Kernel(None, _python(f"${_SWITCH} is 0", f"unset {_SWITCH}"))
    found = _find(kernel, _folder(), tuple(_levels()))
    if found.library is not None:
        require_same(kernel, found.library, mirrors)
    return found


def _folder() -> Path | None:
    """Return where compiled objects are kept, if there is such a place."""
    try:
        return cache_folder() / "native"
    except SettingsError:
        return None


@functools.cache
def _find(kernel: str, folder: Path | None, levels: tuple[Level, ...]) -> _Kernel:
    refusals = []
    for level in levels:
        prebuilt = compiler.OBJECTS / compiler.prebuilt_name(kernel, level)
        if not compiler.is_sealed(prebuilt):
            continue
        try:
            loaded = ctypes.CDLL(str(prebuilt))
        except OSError as error:  # a system library is too old, or the folder forbids programs
            refusals.append(f"an object of the package cannot be loaded ({error})")
            continue
        why = "; ".join([_prebuilt(level), *refusals])
        return _Kernel(loaded, NativeStatus("prebuilt", prebuilt.parent, None, level.name, why))
    return _compiled(kernel, folder, levels[0] if levels else compiler.NATIVE, refusals)


def _prebuilt(level: Level) -> str:
    if _wanted():
        return f"${_LEVEL} asks for them"
    fitting = compiler.fitting_levels(instruction_set())
    which = "best" if level == fitting[0] else f"best of those here ({fitting[0].name} would fit)"
    return f"the package carries objects of this source; {level.name} is the {which} level"


def _compiled(kernel: str, folder: Path | None, level: Level, because: Sequence[str]) -> _Kernel:
    tool = compiler.find_compiler()
    if tool is None:
        why = "; ".join([*because, compiler.why_no_compiler()])
        return _Kernel(None, _python(why, _mend_compiler()))
    refusals = list(because)
    # A compiler may be too old to know a level; what it finds here it knows.
    for wanted in dict.fromkeys([level, *([] if _wanted() else [compiler.NATIVE])]):
        name = compiler.object_name(kernel, wanted, tool, instruction_set())
        job = compiler.CompileJob(kernel, wanted, (folder or Path()) / name)
        try:
            if folder is None:
                return _not_kept(job, tool, "there is no home folder to keep it in")
            return _kept(job, tool, _why_compiled(because))
        except compiler.CompileError as error:
            refusals.append(str(error))
    mend = _mend_compiler() if os.environ.get("CC") else "let CC name another C compiler"
    return _Kernel(None, _python("; ".join(refusals), mend))


def _why_compiled(because: Sequence[str]) -> str:
    wanted = _wanted()
    if because:
        reason = "; ".join(because)
    elif wanted == compiler.NATIVE.name:
        reason = f"${_LEVEL} asks for '{wanted}'"
    elif wanted:
        reason = f"the package carries no objects for '{wanted}', which ${_LEVEL} asks for"
    else:
        reason = "the installed package carries no fitting objects"
    return f"compiled on this machine, because {reason}"


def _mend_compiler() -> str:
    if os.environ.get("CC"):
        return "unset CC, or let it name a C compiler"
    return "apt-get install gcc   (or let CC name a C compiler)"


def _kept(job: compiler.CompileJob, tool: compiler.Compiler, why: str) -> _Kernel:
    path = job.target
    try:
        if not compiler.is_sealed(path):
            with locked(path.parent / "lock"):  # of several processes, one compiles
                if not compiler.is_sealed(path):
                    _make(job, tool)
    except OSError as error:
        return _not_kept(job, tool, f"'{path.parent}' cannot be written ({error})")
    try:
        loaded = ctypes.CDLL(str(path))
    except OSError as error:
        reason = f"what lies in '{path.parent}' cannot be loaded, maybe it is mounted noexec"
        said = str(error).removeprefix(f"{path}: ")  # the same for all kernels, which warn once
        return _not_kept(job, tool, f"{reason} ({said})")
    return _Kernel(loaded, NativeStatus("compiled", path.parent, tool.version, job.level.name, why))


def _make(job: compiler.CompileJob, tool: compiler.Compiler) -> None:
    """Compile an object, with a bar, and say what it took."""
    began, num_units = time.perf_counter(), compiler.count_units(job.kernel)
    with steps(f"compile {job.kernel}", num_units) as bar:
        compiler.compile_objects([job], tool, usable_cores(), bar.advance)
    _logger.warning(
        "Compiled the kernel '%s' for %s in %.1f seconds; it is kept in '%s', so that this "
        "happens once.",
        job.kernel,
        job.level.name,
        time.perf_counter() - began,
        job.target.parent,
    )


def _not_kept(job: compiler.CompileJob, tool: compiler.Compiler, reason: str) -> _Kernel:
    """Compile for this process alone, in the first place that takes a program."""
    why = f"compiled for this process alone: {reason}"
    mend = "let TREADLE_CACHE name a folder for programs that can be written and has room"
    refusals = []
    for place in _private_places():
        try:
            with compiler.workplace(place) as beside:
                made = beside / job.target.name
                compiler.compile_objects([job._replace(target=made)], tool, usable_cores())
                loaded = ctypes.CDLL(str(made))
        except OSError as error:
            refusals.append(f"not in '{place}' either ({error})")
            continue
        _warn_of_cache_once(reason, mend)
        found = NativeStatus("compiled", None, tool.version, job.level.name, why)
        return _Kernel(loaded, found._replace(mend=mend))
    return _Kernel(None, _python("; ".join([reason, *refusals]), mend))


def _private_places() -> Iterator[Path]:
    try:
        yield Path(tempfile.gettempdir())
    except FileNotFoundError:  # none can be written
        return
    yield from (place for place in map(Path, _MORE_PLACES) if place.is_dir())


def _python(why: str, mend: str) -> NativeStatus:
    return NativeStatus("python", None, None, "numpy", why, mend=mend)


def _wanted() -> str | None:
    """Return the level that the environment asks for."""
    return os.environ.get(_LEVEL) or None


def _is_switched_off() -> bool:
    value = os.environ.get(_SWITCH, "1")
    if value not in ("0", "1"):
        raise SettingsError(
            f"Found ${_SWITCH}='{value}' in the environment, expected 0 (run the Python twins) or "
            f"1 (run machine code); unset it."
        )
    return value == "0"


@functools.cache
def _warn_of_cache_once(reason: str, mend: str) -> None:
    message = (
        f"treadle's kernels are compiled for this process alone: {reason}. To mend: {mend}; until "
        f"then every process compiles them again."
    )
    warnings.warn(message, SlowPathWarning, stacklevel=2)


@functools.cache
def _warn_once(why: str, mend: str) -> None:
    message = (
        f"treadle's kernels run as slow Python twins, 10 to 40 times slower ({why}). To mend: "
        f"{mend}; or install treadle's wheel for Linux x86_64, which needs no compiler and no "
        f"cache."
    )
    warnings.warn(message, SlowPathWarning, stacklevel=3)
