"""Merging against mergekit: same bf16 inputs, same threads, interleaved, each in its own process.

Three SmolLM2-sized checkpoints (the packaged model plus noise) and their base are merged by both
sides, and once copied byte by byte, which is the floor: what reading the inputs and writing one of
them costs. "graph" is the time in which tensors are read, merged and written (mergekit's executor,
treadle's jobs); "call" is mergekit's run_merge and treadle's merge_yaml whole, which on treadle's
side also hashes the output and makes it durable (fsync); "all" is the whole process with its
imports. The hashes of the inputs are known, as after a first use. Quality stands beside as the
largest difference between the two outputs, in units of bfloat16's spacing.

Usage: python benchmarks/merge_peer.py --peer /opt/peers/mergekit/bin/python [--work DIR]
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import store
import yaml

from treadle.core.checkpoint import (
    CheckpointReader,
    CheckpointWriter,
    Manifest,
    PlannedTensor,
    Provenance,
    content_hash,
)
from treadle.core.seed import numpy_stream
from treadle.model.load import resolve

PEER = """
import sys, time, yaml
GROWTH
import torch
torch.set_num_threads(THREADS)
from mergekit.config import MergeConfiguration
from mergekit.merge import run_merge
from mergekit.options import MergeOptions
from mergekit.graph import Executor
clock, real = {}, Executor.run
def timed(self, *args, **options):
    clock["start"] = time.perf_counter(), time.process_time()
    yield from real(self, *args, **options)
    clock["stop"] = time.perf_counter(), time.process_time()
Executor.run = timed
imported = resident()
config = MergeConfiguration.model_validate(yaml.safe_load(open("RECIPE")))
options = MergeOptions(copy_tokenizer=True, quiet=True, lazy_unpickle=False)
wall, cpu = time.perf_counter(), time.process_time()
run_merge(config, "OUT", options)
print("call", time.perf_counter() - wall, time.process_time() - cpu, imported, peak())
print("graph", *(b - a for a, b in zip(clock["start"], clock["stop"])))
"""
OURS = """
import sys, time
GROWTH
from pathlib import Path
from treadle.combine.merge import merge_yaml
import treadle.combine.merge.plan
import treadle.combine.merge.run as runs
clock, real = {}, runs.merge_jobs
def timed(*args):
    clock["start"] = time.perf_counter(), time.process_time()
    found = real(*args)
    clock["stop"] = time.perf_counter(), time.process_time()
    return found
runs.merge_jobs = timed
imported = resident()
wall, cpu = time.perf_counter(), time.process_time()
merge_yaml(Path("RECIPE"), Path("OUT"), workers=THREADS, overwrite=True)
print("call", time.perf_counter() - wall, time.process_time() - cpu, imported, peak())
print("graph", *(b - a for a, b in zip(clock["start"], clock["stop"])))
"""
COPY = """
import os, sys, time
wall, cpu = time.perf_counter(), time.process_time()
buffer = bytearray(1 << 20)
target = os.open("OUT", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
for place, name in enumerate("FILES".split(",")):
    with open(name, "rb", buffering=0) as file:
        while count := file.readinto(buffer):
            if place == 0:
                os.write(target, memoryview(buffer)[:count])
os.fsync(target)
print("call", time.perf_counter() - wall, time.process_time() - cpu, 0, 0)
print("graph", time.perf_counter() - wall, time.process_time() - cpu)
"""
GROWTH = """
def field(name):
    with open("/proc/self/status") as status:
        return next(int(l.split()[1]) * 1024 for l in status if l.startswith(name + ":"))
def resident(): return field("VmRSS")
def peak(): return field("VmHWM")
"""
"""Memory as the kernel counts it for this program alone, whoever started it."""
NAMES = ("a", "b", "c")
METHODS: dict[str, dict] = {
    "linear": {"weight": 1.0},
    "ties": {"weight": 1.0, "density": 0.2},
    "dare_ties": {"weight": 1.0, "density": 0.5},
    "slerp": {"t": 0.3},
    "model_stock": {},
    "task_arithmetic": {"weight": 0.5},
    "breadcrumbs": {"weight": 0.5, "density": 0.9},
    "della": {"weight": 0.5, "density": 0.5},
    "sce": {"select_topk": 0.5},
}
RANDOM = ("dare_ties", "della")


def write_models(folder: Path) -> None:
    """Write the base and three variants of it, as bf16."""
    with CheckpointReader(resolve("packaged:smollm2")) as reader:
        planned = [
            PlannedTensor(name, "BF16", info.shape)
            for name, info in reader.tensors.items()
            if name not in reader.tied
        ]
        config = {k: v for k, v in reader.config.items() if k != "torch_dtype"}
        config["dtype"] = "bfloat16"
        for seed, name in enumerate(("base", *NAMES)):
            if (folder / name).is_dir():
                continue
            with CheckpointWriter(
                folder / name, planned, parent=reader, config=config, fingerprint=name
            ) as writer:
                for tensor in planned:
                    values = reader.array(tensor.name).astype(np.float32)
                    if seed:
                        stream = numpy_stream(seed, tensor.name)
                        noise = stream.standard_normal(values.shape, dtype=np.float32)
                        noise *= stream.random(values.shape, dtype=np.float32) ** 3
                        values += 0.1 * values.std() * noise
                    writer.write(tensor.name, values)
                writer.finish(Manifest(provenance=Provenance(verb="synthesise")), "")
    for name in ("base", *NAMES):
        content_hash(folder / name)


def recipe(folder: Path, method: str) -> Path:
    names = ["a"] if method == "slerp" else list(NAMES)
    document: dict = {"merge_method": method, "dtype": "bfloat16", "parameters": METHODS[method]}
    if method != "linear":
        document["base_model"] = str(folder / "base")
    if method == "slerp":
        names = ["base", "a"]
    document["models"] = [{"model": str(folder / name)} for name in names]
    file = folder / f"{method}.yml"
    file.write_text(yaml.safe_dump(document))
    return file


def run(python: str, script: str, threads: int, **values: object) -> dict:
    """Run a script in its own process; return what the kernel says that it cost."""
    for key, value in {**values, "THREADS": threads, "GROWTH": GROWTH}.items():
        script = script.replace(key, str(value))
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}
    # As for a user, both sides find their sources compiled after the first run.
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    started = time.perf_counter()
    with tempfile.TemporaryFile() as said, tempfile.TemporaryFile() as complaints:
        process = subprocess.Popen(
            [python, "-c", script], env=environment, stdout=said, stderr=complaints
        )
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
        said.seek(0)
        complaints.seek(0)
        if status:
            sys.exit(f"failed:\n{complaints.read().decode()[-3000:]}")
        lines = said.read().decode().splitlines()
    call, graph = (
        [float(word) for word in next(ln for ln in lines if ln.startswith(kind)).split()[1:]]
        for kind in ("call", "graph")
    )
    return {
        "all_seconds": seconds,
        "all_cpu_seconds": usage.ru_utime + usage.ru_stime,
        "call_seconds": call[0],
        "call_cpu_seconds": call[1],
        "graph_seconds": graph[0],
        "graph_cpu_seconds": graph[1],
        "memory_growth_bytes": call[3] - call[2],
        "peak_memory_bytes": call[3],
    }


def difference(left: Path, right: Path) -> dict:
    """Return how far two bf16 outputs are apart, in units of their spacing."""
    largest, num_apart, num_elements = 0.0, 0, 0
    with CheckpointReader(left) as ours, CheckpointReader(right) as theirs:
        for name in ours.tensors:
            a, b = (r.array(name).astype(np.float32) for r in (ours, theirs))
            spacing = np.spacing(np.maximum(np.abs(a), np.abs(b))) * 2**16
            apart = np.abs(a - b) / np.maximum(spacing, 1e-12)
            largest = max(largest, float(apart.max()))
            num_apart += int((apart > 1.0).sum())
            num_elements += a.size
    return {
        "largest_in_spacings": largest,
        "more_than_one_spacing_fraction": num_apart / num_elements,
    }


def compare(arguments: argparse.Namespace, method: str, files: str) -> dict:
    """Run both sides and the copy in turn, and return their costs and ratios."""
    work = arguments.work
    sides = {
        "peer": (arguments.peer, PEER),
        "ours": (sys.executable, OURS),
        "copy": (sys.executable, COPY),
    }
    costs: dict[str, list[dict]] = {name: [] for name in sides}
    for _ in range(arguments.rounds):
        for name, (python, script) in sides.items():
            values = {"RECIPE": recipe(work, method), "OUT": work / f"out-{name}", "FILES": files}
            costs[name].append(run(python, script, arguments.threads, **values))
    found: dict = {"costs": costs, "ratio": {}}
    for key in [key for key in costs["ours"][0] if key.endswith("seconds")]:
        ratios = [p[key] / o[key] for p, o in zip(costs["peer"], costs["ours"], strict=True)]
        found["ratio"][key] = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
    copies = [
        o["graph_seconds"] / c["graph_seconds"]
        for o, c in zip(costs["ours"], costs["copy"], strict=True)
    ]
    found["ours_to_copy"] = statistics.median(copies)
    for side in ("ours", "peer"):
        found[f"{side}_memory_growth_bytes"] = max(c["memory_growth_bytes"] for c in costs[side])
    if method not in RANDOM:
        found["difference"] = difference(work / "out-ours", work / "out-peer")
    ratio = {key: values[1] for key, values in found["ratio"].items()}
    print(
        f"{method:16} graph {ratio['graph_seconds']:5.1f}x "
        f"(CPU {ratio['graph_cpu_seconds']:5.1f}x), call {ratio['call_seconds']:5.1f}x, "
        f"all {ratio['all_seconds']:5.1f}x (CPU {ratio['all_cpu_seconds']:5.1f}x), "
        f"{found['ours_to_copy']:.1f} copies, "
        f"grew {found['ours_memory_growth_bytes'] / 1e6:.0f} MB "
        f"(peer {found['peer_memory_growth_bytes'] / 1e6:.0f}); "
        f"{found.get('difference', 'random')}",
        flush=True,
    )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer", required=True)
    parser.add_argument("--work", type=Path, default=Path("runs/merge_peer"))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    arguments.work = arguments.work.absolute()
    write_models(arguments.work)
    files = ",".join(str(arguments.work / name / "model.safetensors") for name in NAMES)
    rows = {method: compare(arguments, method, files) for method in arguments.methods}
    content = {"threads": arguments.threads, "rounds": arguments.rounds, "methods": rows}
    print(store.write(f"merge_peer_{arguments.threads}t", content))


if __name__ == "__main__":
    main()
