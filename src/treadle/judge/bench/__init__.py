"""Bench: what a model costs on this machine."""

from treadle.core.registry import Registry
from treadle.judge.bench.base import Benchmark

__all__ = ["BENCHMARKS", "bench", "bench_load", "bench_replay"]

_METHODS = "treadle.judge.bench.methods"

BENCHMARKS: Registry[Benchmark] = Registry(
    "benchmark",
    {
        "latency": f"{_METHODS}.latency:Latency",
        "questions": f"{_METHODS}.questions:Questions",
        "throughput": f"{_METHODS}.throughput:Throughput",
    },
)

from treadle.judge.bench.apply import bench  # noqa: E402  # the driver reads the table above
from treadle.judge.bench.load import bench_load, bench_replay  # noqa: E402
