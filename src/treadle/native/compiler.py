"""Turns the C sources of a kernel into a sealed shared object for a level of instructions.

Standard library only and free of other modules of ours, because the wheel's build hook loads this
file alone. A kernel `k` is k.c, the further units k_*.c, which compile in parallel, and the headers
k_*.h. A sealed object ends with the sha256 of what stands before it, so that a damaged file is
recognised before it is loaded; the loader of the system ignores such a tail.
"""

import errno
import hashlib
import os
import shlex
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

__all__ = [
    "KERNELS",
    "LEVELS",
    "NATIVE",
    "OBJECTS",
    "CompileError",
    "CompileJob",
    "Compiler",
    "Level",
    "compile_objects",
    "count_units",
    "find_compiler",
    "fitting_levels",
    "is_sealed",
    "object_name",
    "prebuilt_name",
    "why_no_compiler",
    "workplace",
]

SOURCES = Path(__file__).parent
OBJECTS = SOURCES / "objects"
KERNELS = ("step", "text", "codes", "mask", "merge", "obs")
"""The one of most units first, so that the small ones fill the gaps at its end."""
_COMMON = ("mirror.h", "blocks.h")

# Without -ffp-contract=off a compiler fuses multiplications with additions where the machine can,
# and results would depend on the machine; a kernel that wants the fused form writes fmaf().
# Unswitching and splitting make copies of the step's large inner loops for cases that never differ
# inside: without them it compiles in a third of the time and runs as fast.
_FLAGS = ("-std=gnu11", "-O3", "-fPIC", "-ffp-contract=off", "-fno-math-errno")
_UNLESS_CLANG = ("-fno-unswitch-loops", "-fno-split-loops")
_LINKING = ("-shared", "-pthread", "-lm")
_SEAL_BYTES = hashlib.sha256().digest_size
_WORKPLACE = "treadle-compiling-"
_STALE_SECONDS = 24 * 3600
_NO_ROOM = ("No space left on device", "Disk quota exceeded")
_ROOM_BYTES = 16 << 20
"""More than a compile ever fills."""


class Level(NamedTuple):
    """A set of instructions that an object is compiled for."""

    name: str
    options: tuple[str, ...]
    needs: frozenset[str]
    """What a processor must have, as /proc/cpuinfo names it."""


_V3 = frozenset({"avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe", "xsave"})
_V4 = _V3 | {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}
# For wide vectors GCC's generic tuning parks pointers of the 8-bit products in vector registers,
# which costs 6 % of a prompt on Zen 5; that of Zen 3 does not. For narrow ones it is the other way.
_WIDE = ("-march=x86-64-v4", "-mtune=znver3")
_NARROW = ("-march=x86-64-v3",)
LEVELS = (
    Level("x86-64-v4-vnni", (*_WIDE, "-mavx512vnni"), _V4 | {"avx512_vnni"}),
    Level("x86-64-v4", _WIDE, _V4),
    Level("x86-64-v3-vnni", (*_NARROW, "-mavxvnni"), _V3 | {"avx_vnni"}),
    Level("x86-64-v3", _NARROW, _V3),
)
"""The best first: levels of the x86-64 psABI, with the products of bytes where they are extra."""
NATIVE = Level("native", ("-march=native",), frozenset())
"""Whatever the compiler finds here; for processors that no level fits."""


class CompileError(Exception):
    """The compiler refused a source, or could not be run."""


class Compiler(NamedTuple):
    """A C compiler of this system."""

    command: tuple[str, ...]
    version: str


class CompileJob(NamedTuple):
    """An object to be made."""

    kernel: str
    level: Level
    target: Path


def find_compiler() -> Compiler | None:
    """Return the compiler that `$CC` names, or else cc, gcc or clang from the path."""
    chosen = _chosen()
    for candidate in [chosen] if chosen else ["cc", "gcc", "clang"]:
        try:
            program, *arguments = shlex.split(candidate)
            path = shutil.which(program)
            answer = _answer([path, *arguments, "--version"]) if path else None
        except (ValueError, OSError):  # no command line, or no program
            continue
        if path and answer and answer.returncode == 0:
            return Compiler((path, *arguments), answer.stdout.partition("\n")[0])
    return None


def why_no_compiler() -> str:
    """Say why `find_compiler` finds none."""
    if _chosen():
        return f"$CC names '{_chosen()}', which does not run"
    return "no cc, gcc or clang on the path"


def fitting_levels(instructions: Collection[str]) -> list[Level]:
    """Return the levels that a processor with `instructions` can run, the best first."""
    return [level for level in LEVELS if level.needs <= set(instructions)]


def object_name(
    kernel: str, level: Level, compiler: Compiler, instructions: Collection[str]
) -> str:
    """Return the file name of a kernel compiled here, for this processor if at no fixed level."""
    own = sorted(instructions) if level == NATIVE else []
    key = _digest(*_made_from(kernel, level), *compiler.command, compiler.version, *own)
    return f"{kernel}-{key}.{level.name}.so"


def prebuilt_name(kernel: str, level: Level) -> str:
    """Return the name of an object that is made before its use.

    It changes with the source and with every option of the compiler and the linker.
    """
    return f"{kernel}-{_digest(*_made_from(kernel, level))}.{level.name}.so"


def count_units(kernel: str) -> int:
    """Return into how many files that compile in parallel a kernel is cut."""
    return len(_units(kernel))


def compile_objects(
    jobs: Sequence[CompileJob],
    compiler: Compiler,
    num_processes: int,
    advance: Callable[[], None] = lambda: None,
) -> None:
    """Compile kernels and seal them; renaming into place lets processes race.

    Args:
        jobs: What to make.
        compiler: With what.
        num_processes: Units that compile at once.
        advance: Called when a unit is done.

    Raises:
        CompileError: The compiler refused a source, or makes no object.
        OSError: The folder of a target cannot be written, or its disk or that of temporary files
            is full.
    """
    beside = [job.target.parent for job in jobs]
    with workplace(_roomy(beside)) as parts, _pool(num_processes) as pool:
        units = [
            [
                pool.submit(_compile, unit, job.level, compiler, parts / f"{at}{unit}.o")
                for unit in _units(job.kernel)
            ]
            for at, job in enumerate(jobs)
        ]
        for job, made in zip(jobs, units, strict=True):
            _link(job, compiler, [_finished(unit, advance) for unit in made])


@contextmanager
def workplace(folder: Path) -> Iterator[Path]:
    """Yield a new folder in `folder` while the block runs; remove what killed processes left."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob(f"{_WORKPLACE}*"):
        if _is_left(old):
            shutil.rmtree(old, ignore_errors=True)
    with tempfile.TemporaryDirectory(
        dir=folder, prefix=_WORKPLACE, ignore_cleanup_errors=True
    ) as made:
        yield Path(made)


def _is_left(workplace: Path) -> bool:
    try:
        found = workplace.lstat()
    except OSError:
        return False
    return found.st_uid == os.getuid() and found.st_mtime < time.time() - _STALE_SECONDS


def _roomy(others: Sequence[Path]) -> Path:
    """Return the folder of temporary files, or one of `others` where its disk is full."""
    try:
        usual = [Path(tempfile.gettempdir())]
    except FileNotFoundError:  # none of the usual ones can be written
        usual = []
    places = [*usual, *others]
    return next((place for place in places if _free_bytes(place) >= _ROOM_BYTES), places[0])


def _free_bytes(folder: Path) -> int:
    """Return what is free where a folder lies, or would lie."""
    for place in (folder, *folder.parents):
        try:
            return shutil.disk_usage(place).free
        except OSError:  # not made yet
            continue
    return 0


@contextmanager
def _pool(num_processes: int) -> Iterator[ThreadPoolExecutor]:
    """Yield threads that begin nothing more once something went wrong."""
    pool = ThreadPoolExecutor(num_processes)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def is_sealed(path: Path) -> bool:
    """Say whether `path` is a whole sealed object."""
    try:
        content = path.read_bytes()
    except OSError:  # missing, or not for us to read
        return False
    return hashlib.sha256(content[:-_SEAL_BYTES]).digest() == content[-_SEAL_BYTES:]


def _finished(unit: "Future[Path]", advance: Callable[[], None]) -> Path:
    made = unit.result()
    advance()
    return made


def _compile(unit: str, level: Level, compiler: Compiler, target: Path) -> Path:
    flags = [*_options(level), *([] if "clang" in compiler.version else _UNLESS_CLANG)]
    _run(unit, compiler, [*flags, "-c", str(SOURCES / unit)], target, target.parent)
    return target


def _link(job: CompileJob, compiler: Compiler, parts: list[Path]) -> None:
    with workplace(job.target.parent) as beside:
        made = beside / job.target.name
        _run(job.kernel, compiler, [*map(str, parts), *_LINKING], made, parts[0].parent)
        with made.open("rb+") as file:
            file.write(hashlib.sha256(file.read()).digest())
        os.replace(made, job.target)


def _run(what: str, compiler: Compiler, arguments: list[str], target: Path, scratch: Path) -> None:
    """Make `target`; the compiler's own temporary files lie in `scratch`."""
    named = f"$CC names '{_chosen()}', which" if _chosen() else f"'{compiler.command[0]}'"
    try:
        answer = _answer([*compiler.command, *arguments, "-o", str(target)], scratch)
    except OSError as error:
        raise CompileError(f"{named} does not run ({error})") from error
    if answer.returncode != 0:
        for folder in (target.parent, scratch):
            # A linker that maps its output dies without a word.
            if _free_bytes(folder) < 1 << 20:
                said = f"{os.strerror(errno.ENOSPC)}, {_free_bytes(folder)} bytes are free"
                raise OSError(errno.ENOSPC, said, str(folder.parent))
        if any(words in answer.stderr for words in _NO_ROOM):
            raise OSError(errno.ENOSPC, answer.stderr[-500:].strip(), str(target.parent.parent))
        raise CompileError(f"{named} refused {what}: {answer.stderr[-500:]}")
    if not target.is_file() or not target.stat().st_size:
        raise CompileError(f"{named} makes no object of {what}")


def _answer(
    command: Sequence[str], scratch: Path | None = None
) -> "subprocess.CompletedProcess[str]":
    """Run a command whose words may be of any encoding; those of the system are English."""
    return subprocess.run(
        command,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        check=False,
        stdin=subprocess.DEVNULL,
        env={**os.environ, "LC_ALL": "C", **({"TMPDIR": str(scratch)} if scratch else {})},
    )


def _chosen() -> str:
    return os.environ.get("CC", "").strip()


def _options(level: Level) -> tuple[str, ...]:
    return (*_FLAGS, *level.options)


def _units(kernel: str) -> list[str]:
    return [f"{kernel}.c", *sorted(file.name for file in SOURCES.glob(f"{kernel}_*.c"))]


def _source(kernel: str) -> str:
    """Return all that a kernel is compiled from: its units, its headers, what all share."""
    headers = sorted(file.name for file in SOURCES.glob(f"{kernel}_*.h"))
    names = [*_units(kernel), *headers, *_COMMON]
    return "\0".join(part for name in names for part in (name, (SOURCES / name).read_text()))


def _made_from(kernel: str, level: Level) -> tuple[str, ...]:
    return (_source(kernel), *_options(level), *_UNLESS_CLANG, *_LINKING)


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
