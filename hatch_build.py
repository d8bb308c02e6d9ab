"""Puts compiled kernels into the wheel, where `TREADLE_BUILD_NATIVE=1` asks for it.

Any other build stays pure: its kernels are compiled on first use.
"""

import importlib.util
import os
import platform
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

__all__ = ["NativeKernels"]

_NATIVE = "treadle/native"


class NativeKernels(BuildHookInterface):
    """Compiles every kernel for every level of instructions and tags the wheel for its platform."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Add the objects to the wheel; an editable install compiles on first use instead."""
        if version == "editable" or os.environ.get("TREADLE_BUILD_NATIVE") != "1":
            return
        machine = (platform.system(), platform.machine())
        if machine != ("Linux", "x86_64"):
            raise RuntimeError(
                f"Found {machine} with TREADLE_BUILD_NATIVE=1, expected Linux on x86_64; unset it."
            )
        compiler = self._compiler()
        found = compiler.find_compiler()
        if found is None:
            raise RuntimeError(
                "Found no C compiler with TREADLE_BUILD_NATIVE=1, expected $CC, cc, gcc or clang; "
                "install gcc, or unset the variable to build a pure wheel."
            )
        self._folder = tempfile.TemporaryDirectory()
        jobs = [
            compiler.CompileJob(kernel, level, Path(self._folder.name) / prebuilt)
            for level in compiler.LEVELS
            for kernel in compiler.KERNELS
            for prebuilt in [compiler.prebuilt_name(kernel, level)]
        ]
        compiler.compile_objects(jobs, found, os.cpu_count() or 1)
        for job in jobs:
            build_data["force_include"][str(job.target)] = f"{_NATIVE}/objects/{job.target.name}"
        build_data["pure_python"] = False
        build_data["tag"] = "py3-none-linux_x86_64"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Remove what was compiled for the wheel."""
        if hasattr(self, "_folder"):
            self._folder.cleanup()

    def _compiler(self) -> ModuleType:
        """Load treadle's own compiler module by its path: the build has no treadle to import."""
        path = Path(self.root) / "src" / _NATIVE / "compiler.py"
        spec = importlib.util.spec_from_file_location("treadle_compiler", path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module
