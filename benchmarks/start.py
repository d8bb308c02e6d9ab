"""The first second: whole processes from their start to their first token, interleaved.

Each round starts each side once, in its own process, on models that it has met before: imports, the
load of a model, the first token of a short prompt, and all of the process (by the kernel's count,
with what it started). "imports" is a process that imports the same modules in the same order and
does nothing else. Memory is taken behind the first token: what is resident, and how much of that
are pages of the model's own file (a second copy of the weights would be both). The answers of all
sides of treadle must be the same tokens with the same log-probabilities to the last bit.

--before names the src of another checkout, whose processes run in turns with this one's. The
command line rows are whole processes, too: --help, and `echo Hello | treadle chat` to one token.

Usage: python benchmarks/start.py [--before SRC] [--llamacpp PY] [--rounds 5]
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import store
from runtime_engines import packaged_gguf, write_q8_0

MEMORY = """
def memory():
    found, own = {"resident": 0, "of the file": 0}, False
    for line in open("/proc/self/smaps"):
        first, *rest = line.split()
        if not first.endswith(":"):
            own = line.rstrip().endswith((".gguf", ".safetensors"))
        elif first == "Rss:":
            found["resident"] += int(rest[0]) / 1024
            found["of the file"] += own * int(rest[0]) / 1024
    return found
"""
OURS = """
import time, sys, json
FUNCTIONS
from treadle.runtime import LLM, SamplingParams
imported = time.process_time()
llm = LLM(sys.argv[1], num_threads=1, cache_bytes=64 << 20)
loaded = time.process_time()
params = SamplingParams(max_tokens=1, temperature=0, logprobs=3)
answer = llm.generate("The treadle of a loom is", params)[0].outputs[0]
answered = time.process_time()
print(json.dumps({
    "engine": imported, "load": loaded - imported, "first token": answered - loaded, **memory(),
    "answer": repr((list(answer.token_ids), answer.logprobs)), "modules": list(sys.modules),
}))
"""
THEIRS = """
import time, sys, json
FUNCTIONS
from llama_cpp import Llama
imported = time.process_time()
llm = Llama(sys.argv[1], n_ctx=2048, n_threads=1, n_threads_batch=1, verbose=False)
loaded = time.process_time()
llm("The treadle of a loom is", max_tokens=1, temperature=0)
answered = time.process_time()
print(json.dumps({
    "engine": imported, "load": loaded - imported, "first token": answered - loaded, **memory(),
}))
"""
IMPORTS = """
import sys, importlib
for name in sys.stdin.read().split():
    try:
        importlib.import_module(name)
    except Exception:
        pass
"""
ROWS = ("imports", "load", "first token", "process", "process wall", "resident", "of the file")


def run(words: list[str], source: Path | None, text: str = "") -> tuple[float, float, str]:
    """Run a process to its end and return its CPU and wall seconds, and what it said."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    environment.pop("PYTHONPATH", None)
    if source is not None:
        environment["PYTHONPATH"] = str(source)
    with tempfile.TemporaryFile("w+") as given, tempfile.TemporaryFile("w+") as said:
        given.write(text)
        given.seek(0)
        began = time.perf_counter()
        process = subprocess.Popen(
            words, stdin=given, stdout=said, stderr=subprocess.DEVNULL, env=environment
        )
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode == 0, words
        said.seek(0)
        return usage.ru_utime + usage.ru_stime, wall, said.read()


def start(python: str, code: str, model: str, source: Path | None) -> dict[str, Any]:
    """Return what one start took."""
    script = code.replace("FUNCTIONS", MEMORY)
    cpu, wall, said = run([python, "-c", script, model], source)
    found = {**json.loads(said.splitlines()[-1]), "process": cpu, "process wall": wall}
    modules = found.pop("modules", None)
    found["imports"] = found["engine"]
    if modules is not None:
        found["imports"], _, _ = run([python, "-c", IMPORTS], source, "\n".join(modules))
    return found


def medians(rounds: list[dict[str, Any]]) -> dict[str, list[float]]:
    """Return the median of each row with the quartiles around it."""
    return {
        row: [statistics.median(values), *statistics.quantiles(values, n=4)[::2]]
        for row in ROWS
        if (values := [one[row] for one in rounds])
    }


def compare(model: str, sides: dict[str, tuple[str, str, Path | None]], rounds: int) -> Any:
    """Start all sides in turns and return each one's rows, once they were warmed up."""
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in sides}
    for number in range(rounds + 2):  # the first two note what a second start knows
        for name, (python, code, source) in sides.items():
            one = start(python, code, model, source)
            if number >= 2:
                found[name].append(one)
    answers = {one["answer"] for rounds in found.values() for one in rounds if "answer" in one}
    assert len(answers) == 1, answers
    return {name: medians(rounds) for name, rounds in found.items()}


def command_lines(sources: dict[str, Path], rounds: int) -> dict[str, dict[str, list[float]]]:
    """Return CPU and wall seconds of the command line's processes."""
    program = [sys.executable, "-m", "treadle"]
    chat = [*program, "chat", "packaged:smollm2", "--max-tokens", "1", "--num-threads", "1"]
    found: dict[str, dict[str, list[float]]] = {}
    for what, words, text in (("help", [*program, "--help"], ""), ("chat", chat, "Hello\n")):
        times: dict[str, list[tuple[float, float]]] = {name: [] for name in sources}
        for number in range(rounds + 1):
            for name, source in sources.items():
                cpu, wall, _ = run(words, source, text)
                if number:
                    times[name].append((cpu, wall))
        found[what] = {
            name: [statistics.median(column) for column in zip(*both, strict=True)]
            for name, both in times.items()
        }
    return found


def show(what: str, rows: dict[str, dict[str, list[float]]]) -> None:
    """Print the rows of a model, one side beside the other."""
    print(f"\n{what}\n{'':14}" + "".join(f"{name:>12}" for name in rows))
    for row in ROWS:
        unit = "MiB" if row in ROWS[-2:] else "s"
        print(f"{row:14}" + "".join(f"{side[row][0]:12.2f}" for side in rows.values()), unit)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--before", type=Path, help="src of another checkout")
    parser.add_argument("--llamacpp", help="python of llama-cpp-python's environment")
    parser.add_argument("--rounds", type=int, default=5)
    asked = parser.parse_args()
    sources = {"now": Path(__file__).parents[1] / "src"}
    sources |= {} if asked.before is None else {"before": asked.before}
    ours = {name: (sys.executable, OURS, source) for name, source in sources.items()}
    theirs = {} if asked.llamacpp is None else {"llama.cpp": (asked.llamacpp, THEIRS, None)}
    content: dict[str, Any] = {"unit": "median, lower and upper quartile; CPU seconds, or MiB"}
    with tempfile.TemporaryDirectory() as work:
        write_q8_0(packaged_gguf(), Path(work) / "q8_0.gguf")
        for what, model in (
            ("folder, float16", "packaged:smollm2"),
            ("GGUF, Q4_1", str(packaged_gguf())),
            ("GGUF, Q8_0", str(Path(work) / "q8_0.gguf")),
        ):
            sides = ours | (theirs if what.startswith("GGUF") else {})
            content[what] = compare(model, sides, asked.rounds)
            show(what, content[what])
    content["command line"] = command_lines(sources, asked.rounds)
    for what, sides in content["command line"].items():
        print(f"\n{what}: ", {name: [round(v, 2) for v in both] for name, both in sides.items()})
    print(store.write("start", content))


if __name__ == "__main__":
    main()
