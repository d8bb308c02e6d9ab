"""What losses in float32 cost: by the native step, and by blocks of transformers; interleaved.

Perplexity over windows of the packaged model, and a set of four-choice questions, whose common
starts the native step computes once. Seconds are processor seconds of whole processes with their
imports. Quality stands beside: how far the mean losses are apart, and on how many questions the two
give the same answer.

Usage: python benchmarks/evaluate_exact.py --text FILE --questions FILE.jsonl [--windows 64]
           [--num-questions 150] [--threads 1] [--rounds 3]
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import store

from treadle.core.result import read_result

WAYS = ("exact", "blocks")


def spent(words: list[str], threads: int) -> float:
    """Run the command in a process of its own and return its processor seconds."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-m", "treadle", *words], env=environment, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def compare(task: list[str], options: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Evaluate in both ways in turn."""
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    for _ in range(options.rounds):
        for way in WAYS:
            words = ["evaluate", task[0], "packaged:smollm2", str(work / way), *task[1:]]
            words += ["--overwrite", *([] if way == "exact" else ["--through", way])]
            seconds[way].append(spent(words, options.threads))
    pairs = list(zip(seconds["blocks"], seconds["exact"], strict=True))
    exact, blocks = (read_result(work / way) for way in WAYS)
    found: dict[str, Any] = {
        "cpu_seconds": seconds,
        "ratio": statistics.median(blocks / exact for blocks, exact in pairs),
        "computed_by": exact.notes,
    }
    name = next(iter(exact.samples))
    mine, theirs = exact.samples[name], blocks.samples[name]
    if task[0] == "perplexity":
        found["relative_gap"] = abs(sum(mine) - sum(theirs)) / sum(theirs)
    else:
        found["equal_answers"] = sum(a == b for a, b in zip(mine, theirs, strict=True)) / len(mine)
    print(task[0], {key: value for key, value in found.items() if key != "computed_by"}, flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--text", required=True)
    parser.add_argument("--questions", required=True)
    parser.add_argument("--windows", type=int, default=64)
    parser.add_argument("--num-questions", type=int, default=150)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    tasks = [
        ["choice", "--data", options.questions, "--num-questions", str(options.num_questions)],
        ["perplexity", "--data", options.text, "--num-windows", str(options.windows)],
    ]
    with tempfile.TemporaryDirectory() as work:
        found = {task[0]: compare(task, options, Path(work)) for task in tasks}
    settings = {k: getattr(options, k) for k in ("windows", "num_questions", "threads", "rounds")}
    print(store.write("evaluate_exact", {**settings, "tasks": found}))


if __name__ == "__main__":
    main()
