"""The machine: what this process may use of it, and how fast it measurably is."""

import contextlib
import ctypes
import functools
import hashlib
import importlib.metadata
import logging
import math
import os
import platform
import re
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from treadle.core.cache import cache_folder

__all__ = [
    "Hardware",
    "anonymous_bytes",
    "available_memory_bytes",
    "cpu_model",
    "describe",
    "instruction_set",
    "measure",
    "measure_beside",
    "peak_memory_bytes",
    "return_freed_memory",
    "total_memory_bytes",
    "usable_cores",
    "usable_physical_cores",
]

# The extensions that decide which kernels, ours and torch's, can run: name here -> flag in
# /proc/cpuinfo.
_EXTENSIONS = {
    "avx2": "avx2",
    "avx512f": "avx512f",
    "avx512_bf16": "avx512_bf16",
    "avx512_vnni": "avx512_vnni",
    "avx_vnni": "avx_vnni",
    "amx_bf16": "amx_bf16",
    "amx_int8": "amx_int8",
    "neon": "asimd",
    "sve": "sve",
}
_ROUNDS = 5
_BUFFER_BYTES = 512 << 20
_PRODUCT_SIZE = 1536
_SCHEMA = 1  # raise when the meaning of a cached figure changes
logger = logging.getLogger(__name__)
T = TypeVar("T")


class Hardware(BaseModel):
    """What this process may use, and the two ceilings of the roofline.

    The figures are the best of a few rounds: a ceiling is what the machine can do undisturbed.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    cpu_model: str
    physical_cores: int
    """Cores within this process's affinity mask and cgroup quota."""
    logical_cores: int
    """Hardware threads within the same bounds."""
    extensions: tuple[str, ...]
    memory_bytes: int
    """Memory of the machine, or of the control group where that is less."""
    available_memory_bytes: int
    """What could be allocated now without swapping; never cached."""
    l3_bytes: int
    read_bandwidth_bytes_per_second: float
    """One thread reading memory."""
    read_bandwidth_all_threads_bytes_per_second: float
    multiply_peak_flops_per_second: float
    """One thread multiplying float32 matrices; a multiply and an add count as two."""
    multiply_peak_all_threads_flops_per_second: float
    multiply_measured_with: Literal["torch", "numpy"]
    accelerators: tuple[str, ...]


def measure(refresh: bool = False) -> Hardware:
    """Return the machine's facts and its measured ceilings.

    Reading: the maximum of an int32 buffer of 512 MB or eight last-level caches, whichever is more
    (numpy's vectorised reduction, which writes nothing), one slice a thread. Multiplying: a float32
    matrix product in torch if it is installed, because that is what treadle runs, else in numpy;
    numpy's threads cannot be set, so there the figure for one thread is the work per second of
    processor time.

    It takes 2-4 seconds and the buffer's memory once; then the figures come from the cache folder,
    where they are kept per machine and torch version.

    Args:
        refresh: Measure again and replace what is cached.
    """
    file = cache_folder() / "hardware" / f"{_identity()}.json"
    hardware = None if refresh else _read_cached(file)
    if hardware is None:
        hardware = _measure_now()
        _write_cached(file, hardware)
    return hardware.model_copy(update={"available_memory_bytes": available_memory_bytes()})


def measure_beside(run: Callable[[], T]) -> tuple[T, Hardware]:
    """Return what `run` returns, and the machine as measured before and after it.

    What is cached may stem from a busier moment, and a ceiling that is too low flatters what stands
    under it. Of the two measurements the higher figures count; they replace what is cached.
    """
    before = _measure_now()
    found = run()
    after = _measure_now()
    rates = [name for name in Hardware.model_fields if name.endswith("_per_second")]
    higher = {name: max(getattr(before, name), getattr(after, name)) for name in rates}
    hardware = after.model_copy(update=higher)
    _write_cached(cache_folder() / "hardware" / f"{_identity()}.json", hardware)
    return found, hardware


def describe() -> dict[str, Any]:  # Any: JSON values
    """Return the facts that cost nothing to learn, for a result file."""
    return {
        "cpu_model": cpu_model(),
        "physical_cores": usable_physical_cores(),
        "logical_cores": usable_cores(),
        "extensions": list(_extensions()),
        "memory_bytes": total_memory_bytes(),
        "platform": f"{platform.system()} {platform.machine()}",
    }


def peak_memory_bytes() -> int:
    """Return the largest resident size this process ever had, memory-mapped files included."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def return_freed_memory() -> None:
    """Give freed memory back to the system, where the C library can (glibc's malloc_trim).

    Tensors of a few megabytes come and go with every block; glibc keeps what they leave between
    longer-lived ones, which can double a process's size over a model.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def anonymous_bytes() -> int:
    """Return the resident memory that no file backs; 0 where Linux is not.

    Memory-mapped weights do not count, because the system can drop them at any time.
    """
    return _field_bytes("/proc/self/status", "RssAnon")


def total_memory_bytes() -> int:
    """Return the machine's memory, or the control group's limit where that is less."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([machine, *(limit for limit, _ in _memory_groups())])


def available_memory_bytes() -> int:
    """Return what can be allocated now without swapping, within the control group's limit."""
    machine = _field_bytes("/proc/meminfo", "MemAvailable") or total_memory_bytes()
    return max(0, min([machine, *(limit - used for limit, used in _memory_groups())]))


def usable_cores() -> int:
    """Return the hardware threads that affinity and the control group leave to this process."""
    return min(len(_affinity()), _quota_cores())


def usable_physical_cores() -> int:
    """Return the cores behind `usable_cores`: hyper-threads of one core count once."""
    places = {_core_of(cpu) for cpu in _affinity()}
    return min(len(places), _quota_cores())


@functools.cache
def cpu_model() -> str:
    """Return the processor's own name for itself."""
    named = re.search(r"^model name\s*:\s*(.+)$", _read("/proc/cpuinfo"), re.MULTILINE)
    return named[1].strip() if named else platform.processor() or platform.machine()


@functools.cache
def instruction_set() -> frozenset[str]:
    """Return the processor's feature flags as Linux names them; empty where Linux is not."""
    listed = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", _read("/proc/cpuinfo"), re.MULTILINE)
    return frozenset(listed[1].split()) if listed else frozenset()


def _extensions() -> tuple[str, ...]:
    return tuple(name for name, flag in _EXTENSIONS.items() if flag in instruction_set())


def _measure_now() -> Hardware:
    threads = usable_cores()
    bandwidth = _read_bandwidth(threads)
    measured_with, peak, accelerators = _multiply_peak(threads)
    return Hardware(
        cpu_model=cpu_model(),
        physical_cores=usable_physical_cores(),
        logical_cores=threads,
        extensions=_extensions(),
        memory_bytes=total_memory_bytes(),
        available_memory_bytes=available_memory_bytes(),
        l3_bytes=_l3_bytes(),
        read_bandwidth_bytes_per_second=bandwidth[0],
        read_bandwidth_all_threads_bytes_per_second=bandwidth[1],
        multiply_peak_flops_per_second=peak[0],
        multiply_peak_all_threads_flops_per_second=peak[1],
        multiply_measured_with=measured_with,
        accelerators=accelerators,
    )


def _read_bandwidth(threads: int) -> tuple[float, float]:
    wanted = max(_BUFFER_BYTES, 8 * _l3_bytes())
    buffer = np.ones(min(wanted, available_memory_bytes() // 4) // 4, np.int32)
    slices = np.array_split(buffer, threads)
    with ThreadPoolExecutor(threads) as pool:
        alone = _best_seconds(buffer.max)
        together = _best_seconds(lambda: list(pool.map(np.max, slices)))
    return buffer.nbytes / alone, buffer.nbytes / min(alone, together)


def _multiply_peak(
    threads: int,
) -> tuple[Literal["torch", "numpy"], tuple[float, float], tuple[str, ...]]:
    flops = 2 * _PRODUCT_SIZE**3
    try:
        import torch
    except ImportError:
        wall, cpu = _numpy_product_seconds()
        return "numpy", (flops / cpu, flops / wall), ()
    left, right = torch.rand(2, _PRODUCT_SIZE, _PRODUCT_SIZE)
    before = torch.get_num_threads()
    seconds = []
    try:
        for count in (1, threads):
            torch.set_num_threads(count)
            seconds.append(_best_seconds(lambda: torch.mm(left, right)))
    finally:
        torch.set_num_threads(before)
    names = tuple(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))
    return "torch", (flops / seconds[0], flops / min(seconds)), names


def _numpy_product_seconds() -> tuple[float, float]:
    generator = np.random.default_rng(0)
    left, right = generator.random((2, _PRODUCT_SIZE, _PRODUCT_SIZE), np.float32)
    wall = _best_seconds(lambda: left @ right)
    began = time.process_time()
    for _ in range(_ROUNDS):
        left @ right
    return wall, max((time.process_time() - began) / _ROUNDS, wall)


def _best_seconds(run: Callable[[], object]) -> float:
    run()  # wakes threads, touches pages
    seconds = []
    for _ in range(_ROUNDS):
        began = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - began)
    return min(seconds)


def _identity() -> str:
    try:
        torch_version = importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        torch_version = ""
    facts = (
        _SCHEMA,
        cpu_model(),
        usable_physical_cores(),
        usable_cores(),
        total_memory_bytes() >> 28,  # a kernel update may move the total by a few pages
        _l3_bytes(),
        torch_version,
        os.environ.get("CUDA_VISIBLE_DEVICES", ""),
    )
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:16]


def _read_cached(file: Path) -> Hardware | None:
    try:
        return Hardware.model_validate_json(file.read_text())
    except (OSError, ValidationError, UnicodeDecodeError):
        return None


def _write_cached(file: Path, hardware: Hardware) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=file.parent, delete=False) as beside:
            beside.write(hardware.model_dump_json(indent=2))
        os.replace(beside.name, file)
    except OSError as error:
        logger.warning("Cannot keep the measurement (%s); set TREADLE_CACHE to a folder.", error)


def _affinity() -> set[int]:
    if sys.platform == "linux":
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


def _core_of(cpu: int) -> tuple[str, str]:
    topology = f"/sys/devices/system/cpu/cpu{cpu}/topology"
    package = _read(f"{topology}/physical_package_id").strip()
    return package, _read(f"{topology}/core_id").strip() or f"cpu{cpu}"


def _quota_cores() -> int:
    cores = math.inf
    for folder in _group_folders("cpu"):
        limits = _read(folder / "cpu.max").split() or [
            _read(folder / "cpu.cfs_quota_us").strip(),
            _read(folder / "cpu.cfs_period_us").strip(),
        ]
        if all(limit.isdecimal() for limit in limits):  # "max" and "-1" stand for no limit
            cores = min(cores, max(1, math.ceil(int(limits[0]) / int(limits[1]))))
    return sys.maxsize if cores == math.inf else int(cores)


def _memory_groups() -> list[tuple[int, int]]:
    """Limit and use, in bytes, of each control group around this process that has a limit.

    Files that the system can drop at any time do not count as used.
    """
    groups = []
    for folder in _group_folders("memory"):
        for limit_name, use_name, reclaimable in (
            ("memory.max", "memory.current", "inactive_file"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        ):
            limit, used = _read(folder / limit_name).strip(), _read(folder / use_name).strip()
            if limit.isdecimal() and used.isdecimal():
                spare = re.search(rf"^{reclaimable} (\d+)$", _read(folder / "memory.stat"), re.M)
                groups.append((int(limit), int(used) - (int(spare[1]) if spare else 0)))
    return groups


def _group_folders(controller: str) -> Iterator[Path]:
    """Yield this process's control groups, innermost first, in both versions of the interface."""
    root = Path("/sys/fs/cgroup")
    for line in _read("/proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        base = root / controllers if controllers else root
        inner = base / path.lstrip("/")
        yield from (folder for folder in (inner, *inner.parents) if folder.is_relative_to(base))


def _l3_bytes() -> int:
    size = _read("/sys/devices/system/cpu/cpu0/cache/index3/size").strip()
    scale = {"K": 1 << 10, "M": 1 << 20}.get(size[-1:], 1)
    digits = size.rstrip("KM")
    return int(digits) * scale if digits.isdecimal() else 0


def _field_bytes(file: str, name: str) -> int:
    found = re.search(rf"^{name}:\s+(\d+) kB$", _read(file), re.MULTILINE)
    return int(found[1]) * 1024 if found else 0


def _read(path: str | Path) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""
