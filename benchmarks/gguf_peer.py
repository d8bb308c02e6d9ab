"""GGUF files of every kind of block, read by treadle and by llama.cpp, interleaved.

llama.cpp's own quantiser makes the files, from random weights in a 1.1B shape (all of one type but
where it chooses another one for the output), or from a model that is given. "decode b" answers b
prompts of 16 tokens; "prefill" is 512 tokens at once. Processor time, ratios of medians of rounds
in which the engines take turns. Beside them what loading took and what the process holds; with
--model the perplexity of both on the same tokens, and that of the file's own values in float32.

Environments: the peer's is described in README.md. Environment, a core: the caller pins it.

Usage: python benchmarks/gguf_peer.py --llamacpp PY [--types Q4_K Q6_K] [--model F32.gguf --tokens
TOKENS.json] [--keep FOLDER]; gguf_padded.py makes a model and tokens for it.
"""

import argparse
import json
import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import runtime_engines as engines
import store

from treadle.core import hardware

TYPES = {
    "Q2_K": "Q2_K",
    "Q3_K": "Q3_K_M",
    "Q4_K": "Q4_K_M",
    "Q5_K": "Q5_K_M",
    "Q6_K": "Q6_K",
    "Q5_0": "Q5_0",
    "Q5_1": "Q5_1",
    "IQ4_NL": "IQ4_NL",
    "IQ4_XS": "IQ4_XS",
    "MXFP4": "MXFP4_MOE",
}
"""Type -> the mixture of types that people choose it by, as llama.cpp's quantiser knows it."""
SHAPE = (22, 2048, 32, 4, 5632, 32000)
_QUANTISE = """
import ctypes, sys, llama_cpp as C
own = C.llama_model_quantize_default_params()
own.ftype, own.nthread = getattr(C, "LLAMA_FTYPE_MOSTLY_" + sys.argv[3]), 1
sys.exit(C.llama_model_quantize(sys.argv[1].encode(), sys.argv[2].encode(), ctypes.byref(own)))
"""


def write_random(target: Path) -> None:
    """Write random float16 weights in a shape of 1.1 billion."""
    hidden = SHAPE[1]
    draws = np.random.default_rng(0)
    pool = (draws.standard_normal(1 << 24) * hidden**-0.5).astype(np.float16)
    writer = gguf.GGUFWriter(target, "llama")
    engines.write_settings(writer, SHAPE)
    taken = 0

    def matrix(name: str, rows: int, columns: int) -> None:
        nonlocal taken
        taken = (taken * 7 + 12345) % (1 << 20)
        found = np.resize(np.roll(pool, taken), rows * columns).reshape(rows, columns)
        writer.add_tensor(name, found)

    engines.add_tensors(writer, SHAPE, matrix)


def quantised(python: str, source: Path, target: Path, kind: str) -> Path:
    """Let llama.cpp round a file."""
    if not target.exists():
        words = [python, "-c", _QUANTISE, str(source), str(target), kind]
        subprocess.run(words, check=True, capture_output=True)
    return target


def measured(arguments: argparse.Namespace, file: Path) -> dict[str, Any]:
    """Return what both engines took of one file."""
    sides = [
        engines.ours(str(file), "auto", arguments.threads, "treadle", 1024),
        engines.llamacpp(arguments.llamacpp, str(file), arguments.threads, "llama.cpp"),
    ]
    asked = engines.tasks(32000, tuple(arguments.batches), arguments.new_tokens)
    rows = engines.compare(sides, asked, arguments.rounds)
    for side in sides:
        rows[side.name]["loaded"] = side.loaded
        if arguments.tokens:
            windows = json.loads(Path(arguments.tokens).read_text())
            rows[side.name]["perplexity"] = float(np.exp(side.ask(windows=windows)["loss"]))
        side.close()
    if arguments.tokens:
        exact = engines.ours(str(file), "fp32", arguments.threads, "exact", 1024)
        rows["exact"] = {"perplexity": float(np.exp(exact.ask(windows=windows)["loss"]))}
        exact.close()
        said = (f"{name} {row['perplexity']:.3f}" for name, row in rows.items())
        print("perplexity: " + ", ".join(said), flush=True)
    mine, theirs = rows["treadle"], rows["llama.cpp"]
    ratios = {
        task: mine[task]["tokens_per_cpu_second"] / theirs[task]["tokens_per_cpu_second"]
        for task in asked
    }
    ratios["load"] = mine["loaded"]["load_cpu_seconds"] / theirs["loaded"]["load_cpu_seconds"]
    if arguments.tokens:
        ratios["perplexity"] = mine["perplexity"] / theirs["perplexity"]
    print("  ".join(f"{name} {ratio:.3f}" for name, ratio in ratios.items()), flush=True)
    return {"file_bytes": file.stat().st_size, "ratios": ratios, **rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--llamacpp", required=True)
    parser.add_argument("--types", nargs="+", default=list(TYPES), choices=TYPES)
    parser.add_argument("--model")
    parser.add_argument("--tokens", help="JSON: windows of token ids")
    parser.add_argument("--keep", help="where files stay for the next run")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8, 32])
    parser.add_argument("--new-tokens", type=int, default=16)
    arguments = parser.parse_args()
    bandwidth = hardware.measure(refresh=True).read_bandwidth_bytes_per_second
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as work:
        folder = Path(arguments.keep or work)
        source = Path(arguments.model or folder / "f16.gguf")
        if not source.exists():
            write_random(source)
        for name in arguments.types:
            print(f"{name}:", flush=True)
            target = folder / f"{source.stem}-{name}.gguf"
            file = quantised(arguments.llamacpp, source, target, TYPES[name])
            found[name] = measured(arguments, file)
            if not arguments.keep:
                os.remove(file)
    content = {
        "threads": arguments.threads,
        "rounds": arguments.rounds,
        "read_bandwidth_bytes_per_second": bandwidth,
        "rows": found,
    }
    label = "gguf_quality" if arguments.model else "gguf_peer"
    if len(found) < len(TYPES):
        label = "_".join([label, *(name.lower() for name in found)])
    print(store.write(f"{label}_{arguments.threads}t", content))


if __name__ == "__main__":
    main()
