"""Objects made before their use against those that are compiled for this very processor.

The native step of SmolLM2-135M, loaded once for each level of instructions in one process: a prompt
of 256 tokens, one token, and one token of each of 16 texts of 200, in turns with the object that
`-march=native` gives. And what compiling each takes, from nothing.
"""

import argparse
import hashlib
import os
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import store

from treadle import native
from treadle.core.hardware import instruction_set, usable_cores
from treadle.core.timing import paired
from treadle.model.pretrained import packaged
from treadle.native import compiler
from treadle.runtime.cache.pages import KeyValues
from treadle.runtime.executor import StepRows
from treadle.runtime.native_step.llama import LlamaStep

PAGE, PAGES = 16, 20
TEXTS = 16


def rows_of(texts: list[tuple[list[int], int, int]]) -> StepRows:
    """Rows of several texts: (tokens, first position, number of the text) each."""
    tokens, positions, slots, starts, contexts, page_starts, pages = [], [], [], [0], [], [0], []
    for own, first, text in texts:
        table = range(text * PAGES, text * PAGES + PAGES)
        places = range(first, first + len(own))
        tokens += own
        positions += places
        slots += [table[p // PAGE] * PAGE + p % PAGE for p in places]
        starts.append(len(tokens))
        contexts.append(first + len(own))
        pages += table
        page_starts.append(len(pages))
    arrays = [tokens, positions, slots, starts, contexts, page_starts, pages]
    every = [start - 1 for start in starts[1:]]
    return StepRows(*(np.asarray(array, np.int32) for array in [*arrays, every]))


def cases() -> dict[str, tuple[StepRows, int]]:
    """Rows, and how often they run in a round."""
    tokens = np.random.default_rng(0).integers(0, 49000, 256).tolist()
    return {
        "prompt of 256": (rows_of([(tokens, 0, 0)]), 1),
        "one token": (rows_of([(tokens[:1], 256, 0)]), 16),
        "batch of 16": (rows_of([(tokens[i : i + 1], 200, i) for i in range(TEXTS)]), 4),
    }


class Runner:
    """The native step at one level."""

    def __init__(self, folder: Path, form: str, level: str) -> None:
        os.environ["TREADLE_LEVEL"] = level
        self.step = LlamaStep(folder, form, 1)
        shape = self.step.shape
        self.pool = KeyValues(shape.kv_heads, shape.head_dim, TEXTS * PAGES, PAGE, "fp32")

    def run(self, rows: StepRows, times: int = 1) -> np.ndarray:
        """Return the logits."""
        for _ in range(times):
            logits = self.step.forward(rows, self.pool)
        return logits


def compare(folder: Path, form: str, level: str, rounds: int) -> dict[str, Any]:
    baseline, candidate = Runner(folder, form, "native"), Runner(folder, form, level)
    found = {}
    for name, (rows, times) in cases().items():
        bits = [hashlib.sha256(r.run(rows).tobytes()).hexdigest() for r in (baseline, candidate)]
        timing = paired(
            lambda r=rows, t=times: baseline.run(r, t),
            lambda r=rows, t=times: candidate.run(r, t),
            rounds=rounds,
        )
        found[name] = {
            "native_cpu_seconds": float(np.median(timing.baseline_cpu_seconds)) / times,
            "level_cpu_seconds": float(np.median(timing.candidate_cpu_seconds)) / times,
            "cpu_ratio": timing.cpu_ratio._asdict(),
            "wall_ratio": timing.wall_ratio._asdict(),
            "is_same_bits": bits[0] == bits[1],
        }
        ratio = timing.cpu_ratio
        print(
            f"{form:5} {level:15} {name:14} {found[name]['native_cpu_seconds'] * 1e3:8.2f} ms -> "
            f"{found[name]['level_cpu_seconds'] * 1e3:8.2f} ms, {ratio.median:.3f} x "
            f"[{ratio.lower:.3f}, {ratio.upper:.3f}], same bits: {found[name]['is_same_bits']}"
        )
    for runner in (baseline, candidate):
        runner.step.close()
    return found


def compiling(levels: list[compiler.Level]) -> dict[str, Any]:
    """Compile all kernels, and the step alone, for each level."""
    tool, found = compiler.find_compiler(), {}
    for level in levels:
        for name, kernels in (("all", compiler.KERNELS), ("step", ("step",))):
            with tempfile.TemporaryDirectory() as folder:
                jobs = [compiler.CompileJob(k, level, Path(folder) / f"{k}.so") for k in kernels]
                wall, cpu = time.perf_counter(), children_seconds()
                compiler.compile_objects(jobs, tool, usable_cores())
                seconds = {
                    "wall_seconds": time.perf_counter() - wall,
                    "cpu_seconds": children_seconds() - cpu,
                    "object_bytes": sum(job.target.stat().st_size for job in jobs),
                }
            found[f"{name} {level.name}"] = seconds
            print(f"compile {name} for {level.name}: {seconds}")
    return found


def children_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--forms", nargs="+", default=["fp32", "q8", "q4_1"])
    parser.add_argument("--levels", nargs="+", help="the best that fits, unless given")
    given = parser.parse_args()
    fitting = compiler.fitting_levels(instruction_set())
    levels = given.levels or [fitting[0].name]
    chosen = native.status()  # before a level is asked for
    print(f"{chosen.active}: {chosen.isa}, because {chosen.why}")
    folder = packaged("smollm2")
    rows = {
        f"{form} {level}": compare(folder, form, level, given.rounds)
        for form in given.forms
        for level in levels
    }
    note = (
        "Baseline: -march=native; ratios above 1: the level is faster. One process, one thread, "
        "objects of one source; decoding one token depends on how weights happen to lie."
    )
    content = {
        "note": note,
        "chosen": {"active": chosen.active, "level": chosen.isa, "why": chosen.why},
        "compiling": compiling([fitting[0], compiler.NATIVE]),
        "rows": rows,
    }
    print(store.write("kernel_objects", content))


if __name__ == "__main__":
    main()
