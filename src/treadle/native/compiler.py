"""Turns one C source into a sealed shared object.

Standard library only and free of other modules of ours, because the wheel's build hook loads this
file alone. A sealed object ends with the sha256 of what stands before it, so that a damaged file is
recognised before it is loaded; the loader of the system ignores such a tail.
"""

import hashlib
import os
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import NamedTuple

__all__ = [
    "BASELINE",
    "BASELINE_FLAGS",
    "KERNELS",
    "OBJECTS",
    "CompileError",
    "Compiler",
    "compile_object",
    "find_compiler",
    "is_sealed",
    "object_name",
    "prebuilt_name",
]

SOURCES = Path(__file__).parent
OBJECTS = SOURCES / "objects"
KERNELS = ("codes", "mask", "merge", "obs", "step", "text")

# Without -ffp-contract=off a compiler fuses multiplications with additions where the machine can,
# and results would depend on the machine; a kernel that wants the fused form writes fmaf().
_FLAGS = ("-std=gnu11", "-O3", "-fPIC", "-shared", "-ffp-contract=off", "-fno-math-errno")
_LIBRARIES = ("-pthread", "-lm")

BASELINE = "x86-64-v3"
# What that level of the x86-64 psABI asks for, as /proc/cpuinfo names it.
BASELINE_FLAGS = frozenset(
    {"avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe", "xsave"},
)
_SEAL_BYTES = hashlib.sha256().digest_size


class CompileError(Exception):
    """The compiler refused a source, or could not be run."""


class Compiler(NamedTuple):
    """A C compiler of this system."""

    command: tuple[str, ...]
    version: str


def find_compiler() -> Compiler | None:
    """Return the compiler that `$CC` names, or else cc, gcc or clang from the path."""
    chosen = os.environ.get("CC", "").strip()
    for candidate in [chosen] if chosen else ["cc", "gcc", "clang"]:
        program, *arguments = shlex.split(candidate)
        path = shutil.which(program)
        if path is None:
            continue
        command = (path, *arguments)
        answer = subprocess.run(
            [*command, "--version"], capture_output=True, text=True, check=False
        )
        if answer.returncode == 0:
            return Compiler(command, answer.stdout.partition("\n")[0])
    return None


def object_name(kernel: str, compiler: Compiler, instructions: frozenset[str]) -> str:
    """Return the file name of a kernel compiled here for a processor with `instructions`."""
    key = _digest(
        _source(kernel), *_FLAGS, *compiler.command, compiler.version, *sorted(instructions)
    )
    return f"{kernel}-{key}.native.so"


def prebuilt_name(kernel: str) -> str:
    """Return the file name under which a wheel carries a kernel; it changes with the source."""
    return f"{kernel}-{_digest(_source(kernel), *_FLAGS)}.{BASELINE}.so"


def compile_object(kernel: str, compiler: Compiler, architecture: str, target: Path) -> None:
    """Compile a kernel for `architecture` and seal it; renaming into place lets processes race.

    Raises:
        CompileError: The compiler refused the source.
        OSError: The folder of `target` cannot be written.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{kernel}-") as beside:
        made = Path(beside) / target.name
        arguments = [
            *_FLAGS,
            f"-march={architecture}",
            str(SOURCES / f"{kernel}.c"),
            "-o",
            str(made),
            *_LIBRARIES,
        ]
        answer = subprocess.run(
            [*compiler.command, *arguments], capture_output=True, text=True, check=False
        )
        if answer.returncode != 0:
            raise CompileError(f"{compiler.command[0]} refused {kernel}.c: {answer.stderr[-500:]}")
        with made.open("rb+") as file:
            file.write(hashlib.sha256(file.read()).digest())
        os.replace(made, target)


def is_sealed(path: Path) -> bool:
    """Say whether `path` is a whole sealed object."""
    if not path.is_file():
        return False
    content = path.read_bytes()
    return hashlib.sha256(content[:-_SEAL_BYTES]).digest() == content[-_SEAL_BYTES:]


def _source(kernel: str) -> str:
    """Return all that a kernel is compiled from: its source and the headers named after it."""
    headers = sorted(SOURCES.glob(f"{kernel}_*.h"))
    return "\0".join(file.read_text() for file in (SOURCES / f"{kernel}.c", *headers))


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
