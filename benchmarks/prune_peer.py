"""Wanda and SparseGPT against llm-compressor: same tokens, batch and threads, interleaved.

Each side runs in its own process (its own environment), loads the model, prunes it and writes it;
CPU time and peak memory are the kernel's accounts of that process. The floor is one forward pass
over the calibration tokens through all blocks, without the head: what no calibration can do
without.

Usage: python benchmarks/prune_peer.py --peer /opt/peers/llmc/bin/python --calibration VALID.txt
--report TEST.txt
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import store

from treadle import evaluate
from treadle.judge.evaluate import TASKS
from treadle.model.load import load_tokenizer, resolve
from treadle.model.text import sampled_windows

PEER = """
import sys, numpy as np, torch
torch.set_num_threads(THREADS)
from datasets import Dataset
from llmcompressor import oneshot
from llmcompressor.modifiers.pruning import SparseGPTModifier, WandaPruningModifier
from transformers import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained("MODEL", dtype=torch.float32)
tokens = np.load("TOKENS").tolist()
data = Dataset.from_dict({"input_ids": tokens, "attention_mask": [[1] * len(r) for r in tokens]})
kind = {"wanda": WandaPruningModifier, "sparsegpt": SparseGPTModifier}["METHOD"]
recipe = kind(sparsity=0.5, mask_structure="PATTERN", targets=["Linear"], ignore=["re:.*lm_head"])
oneshot(model=model, dataset=data, recipe=recipe, num_calibration_samples=len(tokens),
        max_seq_length=len(tokens[0]), batch_size=4, shuffle_calibration_samples=False)
model.half().save_pretrained("OUT")
"""
OURS = """
import torch
torch.set_num_threads(THREADS)
from pathlib import Path
from treadle import prune
from treadle.shrink.prune import METRICS
prune("MODEL", Path("OUT"), METRICS.resolve("METHOD"), pattern="PATTERN", calibrate="HOW",
      text="TEXT", overwrite=True)
"""
FLOOR = """
import numpy as np, torch
torch.set_num_threads(THREADS)
from pathlib import Path
from treadle.core.checkpoint import CheckpointReader
from treadle.model.layers import LayeredModel
tokens = torch.from_numpy(np.load("TOKENS"))
model = LayeredModel(CheckpointReader(Path("MODEL")))
hidden = model.embed(tokens)
for layer in range(model.num_layers):
    with model.block(layer) as block:
        model.run(block, layer, hidden)
"""


def run(python: str, script: str, **values: object) -> dict:
    """Run a script in its own process and return what the kernel says that it cost."""
    for key, value in values.items():
        script = script.replace(key, str(value))
    threads = str(values["THREADS"])
    environment = {**os.environ, "OMP_NUM_THREADS": threads, "HF_HUB_OFFLINE": "1"}
    started = time.perf_counter()
    process = subprocess.Popen(
        [python, "-c", script], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    said = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"failed:\n{said.decode()[-3000:]}")
    return {
        "seconds": time.perf_counter() - started,
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
        "peak_memory_bytes": usage.ru_maxrss * 1024,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer", required=True)
    parser.add_argument("--model", default="packaged:smollm2")
    parser.add_argument("--calibration", required=True)
    parser.add_argument("--report", required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--methods", nargs="+", default=["wanda", "sparsegpt"])
    arguments = parser.parse_args()
    folder = resolve(arguments.model)
    work = Path(tempfile.mkdtemp(prefix="prune_peer_"))
    tokens = sampled_windows(arguments.calibration, load_tokenizer(folder), 32, 512, seed=0).tokens
    np.save(work / "tokens.npy", tokens.numpy())
    shared = {
        "THREADS": arguments.threads,
        "MODEL": folder,
        "TOKENS": work / "tokens.npy",
        "TEXT": Path(arguments.calibration).absolute(),
    }
    task = TASKS.resolve({"method": "perplexity", "num_windows": 64})
    content: dict = {"threads": arguments.threads, "rounds": arguments.rounds, "methods": {}}
    for method in arguments.methods:
        # Each with its authors' comparison group: Wanda's rows, SparseGPT's block of the matrix.
        pattern = {"wanda": "rows", "sparsegpt": "tensor"}[method]
        sides = {
            "peer": (arguments.peer, PEER, {"PATTERN": "0:0"}),
            "one-pass": (sys.executable, OURS, {"PATTERN": pattern, "HOW": "one-pass"}),
            "floor": (sys.executable, FLOOR, {}),
        }
        if method == "wanda":
            sides["two-pass"] = (sys.executable, OURS, {"PATTERN": pattern, "HOW": "two-pass"})
        costs: dict[str, list[dict]] = {name: [] for name in sides}
        for number in range(arguments.rounds):
            for name, (python, script, values) in sides.items():
                out = work / f"{method}-{name}"
                cost = run(python, script, METHOD=method, OUT=out, **values, **shared)
                costs[name].append(cost)
                print(
                    f"{method} round {number} {name:9} {cost['seconds']:6.1f} s wall "
                    f"{cost['cpu_seconds']:6.1f} s CPU {cost['peak_memory_bytes'] / 1e9:.2f} GB",
                    flush=True,
                )
        content["methods"][method] = summary(work, method, costs, task, arguments.report, folder)
    theme = f"prune_peer_{'_'.join(arguments.methods)}"
    print(store.write(theme, content))


def summary(work: Path, method: str, costs: dict, task, report: str, folder: Path) -> dict:
    found: dict = {"costs": costs, "perplexity": {}, "cpu_ratio_to_peer": {}, "memory_ratio": {}}
    for name in [name for name in costs if name != "floor"]:
        out = work / f"{method}-{name}"
        if name == "peer":
            load_tokenizer(folder).save_pretrained(out)
        scored = evaluate(out, work / f"{method}-{name}.ppl", task, data=report)
        found["perplexity"][name] = scored.measurement("perplexity").value
        pairs = zip(costs["peer"], costs[name], strict=True)
        both = [
            (p["cpu_seconds"] / c["cpu_seconds"], c["peak_memory_bytes"] / p["peak_memory_bytes"])
            for p, c in pairs
        ]
        found["cpu_ratio_to_peer"][name] = statistics.median(ratio for ratio, _ in both)
        found["memory_ratio"][name] = statistics.median(ratio for _, ratio in both)
        print(
            f"{method} {name:9} perplexity {found['perplexity'][name]:.2f}, "
            f"{found['cpu_ratio_to_peer'][name]:.2f} x the peer's CPU speed, "
            f"{found['memory_ratio'][name]:.2f} of its memory",
            flush=True,
        )
    return found


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    main()
