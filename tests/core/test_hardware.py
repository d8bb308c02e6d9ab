import os
import subprocess
import sys

import numpy as np
import pytest

from treadle.core import hardware


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TREADLE_CACHE", str(tmp_path))
    return tmp_path


@pytest.fixture
def quick(monkeypatch):
    """Measure with small buffers: the figures are then meaningless, the path is the same."""
    monkeypatch.setattr(hardware, "_PRODUCT_SIZE", 32)
    monkeypatch.setattr(hardware, "_BUFFER_BYTES", 1 << 20)
    monkeypatch.setattr(hardware, "_l3_bytes", lambda: 0)


@pytest.fixture
def system(tmp_path, monkeypatch):
    """A made-up system: `system({path: text})` are the files that exist."""

    def install(files):
        monkeypatch.setattr(hardware, "_read", lambda path: files.get(str(path), ""))

    return install


def test_measure_gives_plausible_figures_once(cache, quick, monkeypatch):
    found = hardware.measure()
    assert found.physical_cores <= found.logical_cores
    assert 0 < found.available_memory_bytes <= found.memory_bytes
    for rate in (found.read_bandwidth_bytes_per_second, found.multiply_peak_flops_per_second):
        assert rate > 1e6
    alone, together = (
        found.read_bandwidth_bytes_per_second,
        found.read_bandwidth_all_threads_bytes_per_second,
    )
    assert together >= alone
    monkeypatch.setattr(hardware, "_measure_now", pytest.fail)
    again = hardware.measure()
    assert again.model_copy(update={"available_memory_bytes": 0}) == found.model_copy(
        update={"available_memory_bytes": 0}
    )


def test_refresh_measures_again_and_damaged_cache_files_are_replaced(cache, quick, monkeypatch):
    first = hardware.measure()
    changed = first.model_copy(update={"multiply_peak_flops_per_second": 1.0})
    monkeypatch.setattr(hardware, "_measure_now", lambda: changed)
    assert hardware.measure() != changed
    assert hardware.measure(refresh=True).multiply_peak_flops_per_second == 1.0
    [file] = (cache / "hardware").iterdir()
    file.write_text(file.read_text()[:40])
    assert hardware.measure().multiply_peak_flops_per_second == 1.0


def test_without_torch_numpy_is_measured(cache, quick, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    found = hardware.measure()
    assert found.multiply_measured_with == "numpy"
    assert found.accelerators == ()
    assert found.multiply_peak_flops_per_second > 1e6


def test_measuring_leaves_torchs_thread_count_alone(cache, quick):
    torch = pytest.importorskip("torch")
    before = torch.get_num_threads()
    hardware.measure()
    assert torch.get_num_threads() == before


def test_importing_the_module_loads_no_torch():
    code = "import sys, treadle.core.hardware; sys.exit('torch' in sys.modules)"
    environment = {"PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", code], check=True, timeout=240, env=environment)


CPUINFO = """processor : 0
model name\t: Example CPU @ 2 GHz
flags\t\t: fpu avx2 amx_int8 fma
processor : 1
model name\t: Example CPU @ 2 GHz
flags\t\t: fpu avx2 amx_int8 fma
"""


def test_the_processor_names_itself_and_its_extensions(system):
    system({"/proc/cpuinfo": CPUINFO})
    hardware.cpu_model.cache_clear()
    hardware.instruction_set.cache_clear()
    try:
        assert hardware.cpu_model() == "Example CPU @ 2 GHz"
        assert hardware.instruction_set() == {"fpu", "avx2", "amx_int8", "fma"}
        assert hardware.describe()["extensions"] == ["avx2", "amx_int8"]
    finally:
        hardware.cpu_model.cache_clear()
        hardware.instruction_set.cache_clear()


GIB = 1 << 30
GROUP_V2 = {"/proc/self/cgroup": "0::/outer/inner\n"}
GROUP_V1 = {"/proc/self/cgroup": "4:memory:/box\n1:cpu,cpuacct:/box\n9:name=systemd:/\n"}


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({}, 8),
        ({**GROUP_V2, "/sys/fs/cgroup/outer/cpu.max": "150000 100000\n"}, 2),
        ({**GROUP_V2, "/sys/fs/cgroup/outer/inner/cpu.max": "max 100000\n"}, 8),
        ({**GROUP_V2, "/sys/fs/cgroup/cpu.max": "10000 100000\n"}, 1),
        (
            {
                **GROUP_V1,
                "/sys/fs/cgroup/cpu,cpuacct/box/cpu.cfs_quota_us": "300000\n",
                "/sys/fs/cgroup/cpu,cpuacct/box/cpu.cfs_period_us": "100000\n",
            },
            3,
        ),
        (
            {
                **GROUP_V1,
                "/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "-1\n",
                "/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
            },
            8,
        ),
    ],
)
def test_cores_respect_the_quota_of_every_enclosing_group(system, monkeypatch, files, cores):
    monkeypatch.setattr(hardware, "_affinity", lambda: set(range(8)))
    system(files)
    assert hardware.usable_cores() == cores


def test_hyper_threads_of_one_core_count_once(system, monkeypatch):
    monkeypatch.setattr(hardware, "_affinity", lambda: {0, 1, 2})
    folder = "/sys/devices/system/cpu/cpu{}/topology/{}"
    files = {folder.format(cpu, "physical_package_id"): "0\n" for cpu in range(4)}
    files |= {folder.format(cpu, "core_id"): f"{cpu // 2}\n" for cpu in range(4)}
    system(files)
    assert (hardware.usable_physical_cores(), hardware.usable_cores()) == (2, 3)
    system({})  # no topology: every thread is taken for a core
    assert hardware.usable_physical_cores() == 3


@pytest.mark.parametrize(
    "files",
    [
        {
            **GROUP_V2,
            "/sys/fs/cgroup/outer/memory.max": f"{GIB}\n",
            "/sys/fs/cgroup/outer/memory.current": f"{GIB // 2}\n",
            "/sys/fs/cgroup/outer/memory.stat": f"anon 5\ninactive_file {GIB // 4}\n",
            "/sys/fs/cgroup/outer/inner/memory.max": "max\n",
            "/sys/fs/cgroup/outer/inner/memory.current": "1\n",
        },
        {
            **GROUP_V1,
            "/sys/fs/cgroup/memory/box/memory.limit_in_bytes": f"{GIB}\n",
            "/sys/fs/cgroup/memory/box/memory.usage_in_bytes": f"{GIB // 2}\n",
            "/sys/fs/cgroup/memory/box/memory.stat": f"total_inactive_file {GIB // 4}\n",
        },
    ],
    ids=["v2", "v1"],
)
def test_memory_respects_the_group_and_counts_reclaimable_files_as_free(system, files):
    system({**files, "/proc/meminfo": f"MemAvailable:   {8 * GIB // 1024} kB\n"})
    assert hardware.total_memory_bytes() == GIB
    assert hardware.available_memory_bytes() == GIB * 3 // 4


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_of_this_process_grows_with_what_it_holds():
    before = hardware.anonymous_bytes()
    held = np.ones(64 << 20, np.uint8)
    grown = hardware.anonymous_bytes() - before
    assert held.nbytes * 0.9 < grown < held.nbytes * 1.5
    assert hardware.peak_memory_bytes() >= hardware.anonymous_bytes()


def test_the_cache_folder_follows_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("TREADLE_CACHE", str(tmp_path))
    assert hardware.cache_folder() == tmp_path
    monkeypatch.delenv("TREADLE_CACHE")
    monkeypatch.setenv("HOME", "/home/someone")
    assert str(hardware.cache_folder()) == "/home/someone/.cache/treadle"
