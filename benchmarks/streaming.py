"""Memory of pruning models larger than the bound, and kill -9 in the middle.

Writes random-weight Llama shapes as bf16 shards (4 GB and 7B), prunes each by magnitude and by
Wanda at 4x128 in a process of its own, and reports that process's growth of anonymous memory after
imports. Then kills a Wanda run with SIGKILL, resumes it, and compares content hashes.

Usage: python benchmarks/streaming.py --work DIR [--shapes 4gb 7b]
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import store

from treadle.core.checkpoint import (
    CheckpointWriter,
    Manifest,
    PlannedTensor,
    Provenance,
    read_manifest,
)

SHAPES = {
    "4gb": {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 29, "kv": 8},
    "7b": {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "kv": 32},
}
PRUNE = """
import json, resource, sys, threading, time
from pathlib import Path
import torch, transformers
from transformers import AutoModelForCausalLM, AutoTokenizer
from treadle import prune
from treadle.core import hardware
from treadle.shrink.prune import METRICS
before, peak, running = hardware.anonymous_bytes(), [0], [True]
def watch():
    while running[0]:
        peak[0] = max(peak[0], hardware.anonymous_bytes())
        time.sleep(0.02)
threading.Thread(target=watch, daemon=True).start()
options = json.loads(sys.argv[3])
result = prune(sys.argv[1], Path(sys.argv[2]), METRICS.resolve(options.pop("method")), **options)
running[0] = False
print(json.dumps({"growth_bytes": peak[0] - before, "after_imports_bytes": before,
                  "peak_rss_bytes": result.peak_memory_bytes, "seconds": result.seconds,
                  "cpu_seconds": result.cpu_seconds, "sparsity": result.measurements[0].value}))
"""
WANDA = {"method": "wanda", "text": "stdlib:calibration", "num_windows": 4, "window_tokens": 128}


def planned_tensors(config) -> list[PlannedTensor]:  # a LlamaConfig
    hidden, inner = config.hidden_size, config.intermediate_size
    kv = config.num_key_value_heads * config.head_dim
    block = {
        "self_attn.q_proj": (hidden, hidden),
        "self_attn.k_proj": (kv, hidden),
        "self_attn.v_proj": (kv, hidden),
        "self_attn.o_proj": (hidden, hidden),
        "mlp.gate_proj": (inner, hidden),
        "mlp.up_proj": (inner, hidden),
        "mlp.down_proj": (hidden, inner),
        "input_layernorm": (hidden,),
        "post_attention_layernorm": (hidden,),
    }
    shapes = {"model.embed_tokens": (config.vocab_size, hidden)}
    for layer in range(config.num_hidden_layers):
        shapes |= {f"model.layers.{layer}.{name}": shape for name, shape in block.items()}
    shapes |= {"model.norm": (hidden,), "lm_head": (config.vocab_size, hidden)}
    return [PlannedTensor(f"{name}.weight", "BF16", shape) for name, shape in shapes.items()]


def write_model(folder: Path, name: str, seed: int = 0) -> None:
    """Write a random Llama of the shape, some rows at a time, and a tokenizer."""
    from transformers import LlamaConfig

    from treadle.model import tiny

    shape = dict(SHAPES[name])
    shape |= {"num_attention_heads": 32, "num_key_value_heads": shape.pop("kv")}
    config = LlamaConfig(**shape, vocab_size=32000, head_dim=shape["hidden_size"] // 32)
    settings = {**config.to_dict(), "architectures": ["LlamaForCausalLM"], "dtype": "bfloat16"}
    planned = planned_tensors(config)
    generator = np.random.default_rng(seed)
    with CheckpointWriter(
        folder, planned, parent=None, config=settings, fingerprint=name
    ) as writer:
        for tensor in planned:
            if len(tensor.shape) == 1:
                writer.write(tensor.name, np.ones(tensor.shape, np.float32))
                continue
            rows = max(1, (16 << 20) // tensor.shape[1])
            for first in range(0, tensor.shape[0], rows):
                size = (min(rows, tensor.shape[0] - first), tensor.shape[1])
                values = generator.standard_normal(size, dtype=np.float32) * np.float32(0.02)
                writer.write_range(tensor.name, first * tensor.shape[1], values)
        writer.finish(Manifest(provenance=Provenance(verb="synthesise")), "# Random weights\n")
    tiny.tokenizer(folder)


def command(model: Path, out: Path, options: dict) -> list[str]:
    return [sys.executable, "-c", PRUNE, str(model), str(out), json.dumps(options)]


def run(model: Path, out: Path, options: dict) -> dict:
    words = command(model, out, options)
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr[-3000:])
    return json.loads(done.stdout.splitlines()[-1])


def kill_and_resume(model: Path, out: Path, options: dict, num_blocks: int) -> dict:
    """Kill a run once `num_blocks` blocks are done, and resume it."""
    process = subprocess.Popen(command(model, out, options), stdout=subprocess.DEVNULL)
    journal = out.with_name(f".{out.name}.partial") / ".treadle-journal"
    while process.poll() is None:
        if journal.is_file() and journal.read_text().count("down_proj") >= num_blocks:
            break
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    was_interrupted = not out.exists()
    return {"was_interrupted": was_interrupted, **run(model, out, options)}


def measure(model: Path, out: Path, num_blocks: int) -> tuple[dict, dict]:
    rows = {}
    for method, options in {"magnitude": {"method": "magnitude"}, "wanda 4x128": WANDA}.items():
        row = rows[method] = run(model, out, options)
        row["content_hash"] = read_manifest(out).content_hash
        shutil.rmtree(out)
        grown = row["growth_bytes"] / 1e6
        print(f"{out.name} {method}: grew {grown:.0f} MB, {row['seconds']:.0f} s", flush=True)
    resumed = kill_and_resume(model, out, WANDA, num_blocks // 2)
    same = read_manifest(out).content_hash == rows["wanda 4x128"]["content_hash"]
    shutil.rmtree(out)
    print(f"{out.name} killed, resumed in {resumed['seconds']:.0f} s, same bytes: {same}")
    return rows, {**resumed, "same_bytes": same}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--shapes", nargs="+", default=list(SHAPES), choices=list(SHAPES))
    arguments = parser.parse_args()
    content: dict = {}
    for name in arguments.shapes:
        model, out = arguments.work / name, arguments.work / f"{name}-out"
        if not model.is_dir():
            write_model(model, name)
        num_bytes = sum(f.stat().st_size for f in model.glob("*.safetensors"))
        print(f"{name}: {num_bytes / 1e9:.2f} GB", flush=True)
        rows, resumed = measure(model, out, SHAPES[name]["num_hidden_layers"])
        content[name] = {"model_bytes": num_bytes, "runs": rows, "killed_and_resumed": resumed}
        shutil.rmtree(model)
    print(store.write("streaming", {"shapes": content}))


if __name__ == "__main__":
    main()
