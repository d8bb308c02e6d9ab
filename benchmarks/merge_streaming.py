"""A linear merge of three 7B models from a cold cache: memory, and its rate against the disk's.

Writes three random-weight Llama-7B shapes as bf16 (40 GB), drops them from the page cache, measures
what the disk reads and writes by itself, and merges them in a process of its own. The floor is
(bytes read) / (read rate) + (bytes written) / (write rate), as if reading and writing shared one
disk and nothing else took time.

Usage: python benchmarks/merge_streaming.py --work DIR [--shape 7b]
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import store
from streaming import SHAPES, write_model

MERGE = """
import json, sys, time
from pathlib import Path
from treadle.combine.merge import merge
import treadle.combine.merge.plan
import treadle.combine.merge.run as runs
def field(name):
    with open("/proc/self/status") as status:
        return next(int(l.split()[1]) * 1024 for l in status if l.startswith(name + ":"))
clock, real = {}, runs.merge_jobs
def timed(*args):
    started = time.perf_counter()
    found = real(*args)
    clock["seconds"] = time.perf_counter() - started
    return found
runs.merge_jobs = timed
before = field("VmRSS")
*models, out = sys.argv[1:-1]
result = merge(models, Path(out), "linear", workers=int(sys.argv[-1]))
print(json.dumps({"growth_bytes": field("VmHWM") - before, "anonymous_bytes": field("RssAnon"),
                  "merging_seconds": clock["seconds"], "seconds": result.seconds,
                  "cpu_seconds": result.cpu_seconds}))
"""
_PIECE = 8 << 20
_SAMPLE_BYTES = 4 << 30


def drop(folder: Path) -> None:
    """Ask the kernel to forget the pages of a folder's files."""
    for file in folder.iterdir():
        descriptor = os.open(file, os.O_RDONLY)
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def read_rate(folder: Path) -> float:
    """Return the bytes a second of reading weights that are in no cache."""
    drop(folder)
    buffer, num_bytes, started = bytearray(_PIECE), 0, time.perf_counter()
    for file in sorted(folder.glob("*.safetensors")):
        with file.open("rb", buffering=0) as stream:
            while num_bytes < _SAMPLE_BYTES and (count := stream.readinto(buffer)):
                num_bytes += count
    return num_bytes / (time.perf_counter() - started)


def write_rate(folder: Path) -> float:
    """Return the bytes a second of writing and making durable."""
    piece, file, started = os.urandom(_PIECE), folder / "written", time.perf_counter()
    with file.open("wb", buffering=0) as stream:
        for _ in range(_SAMPLE_BYTES // _PIECE):
            stream.write(piece)
        os.fsync(stream.fileno())
    rate = _SAMPLE_BYTES / (time.perf_counter() - started)
    file.unlink()
    return rate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--shape", default="7b", choices=list(SHAPES))
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    models = [arguments.work / f"{arguments.shape}-{seed}" for seed in range(3)]
    for seed, model in enumerate(models):
        if not model.is_dir():
            write_model(model, arguments.shape, seed)
    rates = {"read": read_rate(models[0]), "write": write_rate(arguments.work)}
    for model in models:
        drop(model)
    out = arguments.work / "merged"
    words = [sys.executable, "-c", MERGE, *map(str, models), str(out), str(arguments.workers)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr[-3000:])
    found = json.loads(done.stdout.splitlines()[-1])
    num_bytes = sum(file.stat().st_size for file in models[0].glob("*.safetensors"))
    floor = 3 * num_bytes / rates["read"] + num_bytes / rates["write"]
    content = {
        "shape": arguments.shape,
        "model_bytes": num_bytes,
        "workers": arguments.workers,
        "disk_bytes_per_second": rates,
        "floor_seconds": floor,
        "floor_fraction": floor / found["merging_seconds"],
        **found,
    }
    print(json.dumps(content, indent=1))
    print(store.write("merge_streaming", content))
    for folder in (*models, out):
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
