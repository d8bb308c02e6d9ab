"""Makes the kernels before they are used: `python -m treadle.native.build [all]`.

Without an argument it makes what this machine will load: the best level of instructions that fits.
With `all` it makes every level, which any x86-64 machine can compile. What changed since has
another name, so that an old object is never loaded; it is removed here.
"""

import logging
import shlex
import sys
import time

from treadle.core.hardware import instruction_set, usable_cores
from treadle.core.progress import steps
from treadle.native import compiler

__all__ = ["build"]

_USAGE = "usage: python -m treadle.native.build [all]"
_logger = logging.getLogger(__name__)


def build(has_all_levels: bool = False) -> int:
    """Make what is missing beside the package, remove what is stale; returns how many were made.

    Raises:
        CompileError: There is no compiler, or it refused a source.
        OSError: The package's folder cannot be written.
    """
    fitting = compiler.fitting_levels(instruction_set())
    levels = compiler.LEVELS if has_all_levels else fitting[:1]
    wanted = {
        compiler.OBJECTS / compiler.prebuilt_name(kernel, level): compiler.CompileJob(
            kernel, level, path
        )
        for level in levels
        for kernel in compiler.KERNELS
        for path in [compiler.OBJECTS / compiler.prebuilt_name(kernel, level)]
    }
    _remove_stale()
    jobs = [job for path, job in wanted.items() if not compiler.is_sealed(path)]
    if not jobs:
        return 0
    tool = compiler.find_compiler()
    if tool is None:
        raise compiler.CompileError(f"{compiler.why_no_compiler()}; install gcc")
    num_units = sum(compiler.count_units(job.kernel) for job in jobs)
    with steps("compile the kernels", num_units) as bar:
        compiler.compile_objects(jobs, tool, usable_cores(), bar.advance)
    return len(jobs)


def _remove_stale() -> None:
    """Remove objects of sources that are no more; those of other levels stay."""
    current = {
        compiler.prebuilt_name(kernel, level)
        for kernel in compiler.KERNELS
        for level in compiler.LEVELS
    }
    for path in compiler.OBJECTS.glob("*.so"):
        if path.name not in current:
            path.unlink()


def main(arguments: list[str]) -> int:
    """Build, and say what was made; what cannot be made is left to the first use of kernels.

    Returns:
        The status of the process: 2 where the arguments are not understood.
    """
    if arguments in (["-h"], ["--help"]):
        sys.stdout.write(f"{_USAGE}\n{__doc__}")
        return 0
    if arguments not in ([], ["all"]):
        sys.stderr.write(f"{_USAGE}\nFound {shlex.join(arguments)}.\n")
        return 2
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if not arguments and not compiler.fitting_levels(instruction_set()):
        _logger.info("No kernels were made: none of the levels fits this processor.")
        return 0
    began = time.perf_counter()
    try:
        made = build("all" in arguments)
    except compiler.CompileError as error:
        _logger.warning("No kernels were made: %s.", error)
    except OSError as error:
        _logger.warning(
            "No kernels were made: '%s' cannot be written (%s).", compiler.OBJECTS, error
        )
    else:
        _logger.info("%d kernels made in %.1f seconds.", made, time.perf_counter() - began)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
