"""Finds the machine code of a kernel: prebuilt in the wheel, else compiled here, else none."""

import ctypes
import functools
import logging
import os
import tempfile
import warnings
from pathlib import Path
from typing import Literal, NamedTuple

from treadle.core.cache import cache_folder
from treadle.core.errors import SettingsError
from treadle.core.hardware import instruction_set
from treadle.native import compiler

__all__ = ["NativeStatus", "SlowPathWarning", "library", "status"]

_logger = logging.getLogger(__name__)
_SWITCH = "TREADLE_NATIVE"


class SlowPathWarning(UserWarning):
    """Something runs much slower than it could, for want of a compiler or a package."""


class NativeStatus(NamedTuple):
    """Where the kernels come from, for the doctor."""

    active: Literal["prebuilt", "compiled", "python"]
    path: Path | None
    """The folder of the loaded objects."""
    compiler: str | None
    isa: str
    why: str


class _Kernel(NamedTuple):
    library: ctypes.CDLL | None
    status: NativeStatus


def library(kernel: str) -> ctypes.CDLL | None:
    """Return the loaded kernel, or None where its Python twin has to do the work.

    The first call may compile for about a second. Calls into the library release the interpreter's
    lock.

    Raises:
        SettingsError: `$TREADLE_NATIVE` is neither 0 nor 1.
    """
    found = _load(kernel)
    if found.library is None and not _is_switched_off():
        _warn_once(found.status.why)
    return found.library


def status() -> NativeStatus:
    """Return where the kernels come from; of several answers, the one of the slowest kernel."""
    speeds = ("python", "compiled", "prebuilt")
    return min(
        (_load(name).status for name in compiler.KERNELS), key=lambda s: speeds.index(s.active)
    )


def _load(kernel: str) -> _Kernel:
    # What the environment says is the key, because kernels are asked for thousands of times a
    # second, and a path takes longer to build than a short run to compute.
    get = os.environ.get
    return _load_for(kernel, get(_SWITCH), get("TREADLE_CACHE"), get("HOME"))


@functools.cache
def _load_for(kernel: str, switch: str | None, cache: str | None, home: str | None) -> _Kernel:
    if _is_switched_off():
        return _Kernel(None, _python(f"${_SWITCH} is 0"))
    return _find(kernel, cache_folder() / "native")


@functools.cache
def _find(kernel: str, folder: Path) -> _Kernel:
    prebuilt = compiler.OBJECTS / compiler.prebuilt_name(kernel)
    if instruction_set() >= compiler.BASELINE_FLAGS and compiler.is_sealed(prebuilt):
        why = "the wheel carries objects that fit this source and this processor"
        found = NativeStatus("prebuilt", prebuilt.parent, None, compiler.BASELINE, why)
        return _Kernel(ctypes.CDLL(str(prebuilt)), found)
    return _compiled(kernel, folder)


def _compiled(kernel: str, folder: Path) -> _Kernel:
    tool = compiler.find_compiler()
    if tool is None:
        named = os.environ.get("CC")
        looked = (
            f"$CC names '{named}', which does not run"
            if named
            else "no cc, gcc or clang on the path"
        )
        return _Kernel(None, _python(looked))
    path = folder / compiler.object_name(kernel, tool, instruction_set())
    try:
        return _kept(kernel, tool, path)
    except compiler.CompileError as error:
        return _Kernel(None, _python(str(error)))
    except OSError as error:
        return _not_kept(kernel, tool, path, str(error))


def _kept(kernel: str, tool: compiler.Compiler, path: Path) -> _Kernel:
    if not compiler.is_sealed(path):
        path.parent.mkdir(parents=True, exist_ok=True)  # fails before it is promised
        _log_once(path.parent)
        compiler.compile_object(kernel, tool, "native", path)
    why = "compiled on this machine, because the installed package carries no fitting objects"
    found = NativeStatus("compiled", path.parent, tool.version, "native", why)
    return _Kernel(ctypes.CDLL(str(path)), found)


def _not_kept(kernel: str, tool: compiler.Compiler, path: Path, reason: str) -> _Kernel:
    """Compile for this process alone."""
    why = (
        f"compiled for this process alone: '{path.parent}' cannot be written ({reason}). Let "
        f"TREADLE_CACHE name a folder that can"
    )
    _warn_of_cache_once(path.parent, why)
    try:
        with tempfile.TemporaryDirectory(prefix="treadle-") as beside:
            made = Path(beside) / path.name
            compiler.compile_object(kernel, tool, "native", made)
            loaded = ctypes.CDLL(str(made))
    except (compiler.CompileError, OSError) as error:
        return _Kernel(None, _python(f"{why}; and not even so ({error})"))
    return _Kernel(loaded, NativeStatus("compiled", None, tool.version, "native", why))


def _python(why: str) -> NativeStatus:
    return NativeStatus("python", None, None, "numpy", why)


def _is_switched_off() -> bool:
    value = os.environ.get(_SWITCH, "1")
    if value not in ("0", "1"):
        raise SettingsError(
            f"Found ${_SWITCH}='{value}' in the environment, expected 0 (run the Python twins) or "
            f"1 (run machine code); unset it."
        )
    return value == "0"


@functools.cache
def _log_once(folder: Path) -> None:
    _logger.warning(
        "Compiling kernels for this processor, the largest for up to half a minute; they are kept "
        "in '%s', so that this happens once.",
        folder,
    )


@functools.cache
def _warn_of_cache_once(folder: Path, why: str) -> None:
    message = f"treadle's kernels are {why}; until then every process compiles them again."
    warnings.warn(message, SlowPathWarning, stacklevel=2)


@functools.cache
def _warn_once(why: str) -> None:
    message = (
        f"treadle's kernels run as slow Python twins, 10 to 40 times slower ({why}). Install a C "
        f"compiler (apt-get install gcc) and let TREADLE_CACHE name a folder that can be written, "
        f"or install treadle's wheel for Linux x86_64, which needs neither."
    )
    warnings.warn(message, SlowPathWarning, stacklevel=3)
