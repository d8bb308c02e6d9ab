"""Which entries of a cache stay, beside kvpress 0.5.5 in an environment of its own, and its memory.

Both read one text with one model in float32. kvpress drops entries once, behind the whole prompt;
for the comparison of kept sets ours does, too (one chunk of the prompt's length). The memory is
that of each process above what it held when the model was loaded: kvpress holds the whole prompt's
cache before it drops any of it, ours evicts chunk by chunk.

Usage: python benchmarks/eviction_peer.py --python /opt/peers/kvpress/bin/python --text FILE.txt
[--model packaged:smollm2] [--tokens 1024] [--memory-tokens 4096] [--keep-fraction 0.125]
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import store

from treadle.model.load import resolve
from treadle.runtime import LLM, SamplingParams

PRESSES = {
    "sinks": ("StreamingLLMPress", {"n_sink": 4}),
    "key_norm": ("KnormPress", {}),
    "snapkv": ("SnapKVPress", {"window_size": 32, "kernel_size": 5}),
    "tova": ("TOVAPress", {}),
    "expected": (
        "ExpectedAttentionPress",
        {"n_sink": 4, "n_future_positions": 512, "epsilon": 0.02},
    ),
}
"""Policy -> the press of kvpress, and its settings."""
SETTINGS = {
    "sinks": {"sinks": 4, "window": 0},
    "key_norm": {"sinks": 0, "window": 0},
    "snapkv": {"sinks": 0, "window": 32, "kernel": 5},
    "tova": {"sinks": 0, "window": 1},
    "expected": {"sinks": 4, "window": 0, "future_tokens": 512, "epsilon": 0.02},
}
"""The same of ours."""
MEMORY = """
import resource

def held():
    with open("/proc/self/status") as file:
        return next(1024 * int(line.split()[1]) for line in file if line.startswith("VmHWM"))

def now():
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # the peak counts from here on
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()
"""
PEER = """
import json, sys, torch, kvpress
from transformers import AutoModelForCausalLM
torch.set_num_threads(1)
asked = json.load(open(sys.argv[1]))
model = AutoModelForCausalLM.from_pretrained(asked["model"], dtype=torch.float32).eval()
kind = getattr(kvpress, asked["press"])
press = kind(compression_ratio=1 - asked["fraction"], **asked["settings"])
kept, score = {}, kind.score

def noted(self, module, hidden_states, keys, values, attentions, kwargs):
    found = score(self, module, hidden_states, keys, values, attentions, kwargs)
    count = int(keys.shape[2] * asked["fraction"])
    kept[module.layer_idx] = found.topk(count, dim=-1).indices[0].sort(dim=-1).values.tolist()
    return found

kind.score = noted
tokens = torch.tensor([asked["tokens"]])
before = now()
with torch.no_grad(), press(model):
    model.model(tokens, use_cache=True)
sets = [own for layer in sorted(kept) for own in kept[layer]]
json.dump({"kept": sets, "bytes": held() - before}, open(sys.argv[2], "w"))
"""
OURS = """
import json, sys
from treadle.runtime import LLM, SamplingParams
asked = json.load(open(sys.argv[1]))
llm = LLM(asked["model"], weights="fp32", kv_dtype="fp32", num_threads=1, keep=asked["keep"],
          keep_budget=asked["budget"], cache_bytes=asked["cache_bytes"])
llm.generate([[1, 2, 3]], SamplingParams(max_tokens=1, temperature=0))
before = now()
llm.generate([asked["tokens"]], SamplingParams(max_tokens=1, temperature=0))
json.dump({"bytes": held() - before, "pools": llm.load_report().peak_kept_bytes},
          open(sys.argv[2], "w"))
"""


def run(python: str, program: str, asked: dict[str, object]) -> dict[str, object]:
    """Run a program in a process of its own and return what it wrote."""
    with tempfile.TemporaryDirectory() as folder:
        question, answer = Path(folder) / "asked.json", Path(folder) / "found.json"
        question.write_text(json.dumps(asked))
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        environment.pop("PYTHONPATH", None) if python != sys.executable else None
        subprocess.run(
            [python, "-c", MEMORY + program, str(question), str(answer)],
            check=True,
            env=environment,
            stderr=subprocess.DEVNULL,
        )
        found: dict[str, object] = json.loads(answer.read_text())
        return found


def kept_here(folder: Path, name: str, tokens: list[int], budget: int) -> list[list[int]]:
    """Return the positions that each KV head of all layers keeps."""
    keep = {"method": name, "chunk_tokens": len(tokens), **SETTINGS[name]}
    options = {"weights": "fp32", "kv_dtype": "fp32", "num_threads": 1, "cache_bytes": 2**28}
    llm = LLM(folder, keep=keep, keep_budget=budget, **options)
    (request,) = llm.submit([*tokens, tokens[0]], SamplingParams(max_tokens=1))
    while request.num_computed < len(tokens):
        llm.step()
    assert request.entries is not None
    positions = request.entries.positions(llm._batch.pool.store)
    found = [sorted(row[row >= 0].tolist()) for row in positions]
    llm.close([request])
    return found


def compared(own: list[list[int]], theirs: list[list[int]]) -> dict[str, float]:
    """Return how much of the sets is the same."""
    pairs = [(set(a), set(b)) for a, b in zip(own, theirs, strict=True)]
    return {
        "heads": len(pairs),
        "equal_heads": sum(a == b for a, b in pairs),
        "overlap": float(np.mean([len(a & b) / len(b) for a, b in pairs])),
        "least_overlap": min(len(a & b) / len(b) for a, b in pairs),
    }


def main() -> None:
    """Compare, print and store."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--python", required=True)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--model", default="packaged:smollm2")
    parser.add_argument("--tokens", type=int, default=1024)
    parser.add_argument("--memory-tokens", type=int, default=4096)
    parser.add_argument("--keep-fraction", type=float, default=0.125)
    asked = parser.parse_args()
    folder = resolve(asked.model)
    llm = LLM(folder, weights="fp32", num_threads=1, cache_bytes=2**24)
    text = llm.prompts.tokens(asked.text.read_text()[: 5 * asked.memory_tokens])
    found: dict[str, dict[str, object]] = {}
    for name, (press, settings) in PRESSES.items():
        tokens, budget = text[: asked.tokens], int(asked.tokens * asked.keep_fraction)
        peer = {"model": str(folder), "press": press, "settings": settings}
        peer |= {"fraction": asked.keep_fraction, "tokens": tokens}
        theirs = run(asked.python, PEER, peer)["kept"]
        found[name] = dict(compared(kept_here(folder, name, tokens, budget), theirs))
        print(name, found[name], flush=True)
    long = text[: asked.memory_tokens]
    press, settings = PRESSES["snapkv"]
    peer = {"model": str(folder), "press": press, "settings": settings}
    theirs = run(asked.python, PEER, {**peer, "fraction": asked.keep_fraction, "tokens": long})
    ours = run(
        sys.executable,
        OURS,
        {
            **{"model": str(folder), "keep": "snapkv", "tokens": long, "cache_bytes": 2**28},
            "budget": int(len(long) * asked.keep_fraction),
        },
    )
    found["memory"] = {
        "tokens": len(long),
        "kvpress_bytes": theirs["bytes"],
        "treadle_bytes": ours["bytes"],
        "treadle_pools_bytes": ours["pools"],
        "ratio": ours["bytes"] / theirs["bytes"],  # type: ignore[operator]
    }
    print("memory", found["memory"])
    print("written", store.write("eviction_peer", found))


if __name__ == "__main__":
    main()
