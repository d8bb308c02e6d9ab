"""Bench: what a model costs on this machine."""

from treadle.judge.bench.apply import bench
from treadle.judge.bench.load import bench_load, bench_replay
from treadle.judge.bench.tables import BENCHMARKS

__all__ = ["BENCHMARKS", "bench", "bench_load", "bench_replay"]
