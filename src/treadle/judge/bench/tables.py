"""The table of the family's methods."""

from treadle.core.registry import Registry
from treadle.judge.bench.base import Benchmark

__all__ = ["BENCHMARKS"]

_METHODS = "treadle.judge.bench.methods"

BENCHMARKS: Registry[Benchmark] = Registry(
    "benchmark",
    {
        "contexts": f"{_METHODS}.contexts:Contexts",
        "latency": f"{_METHODS}.latency:Latency",
        "questions": f"{_METHODS}.questions:Questions",
        "speculation": f"{_METHODS}.speculation:Speculated",
        "throughput": f"{_METHODS}.throughput:Throughput",
        "trees": f"{_METHODS}.trees:Trees",
    },
)
