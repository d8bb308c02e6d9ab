"""What eviction saves: bytes of the pools, time of decoding, requests in a cache, and 128k tokens.

Parts, each by itself: `pools` (real pools, a step that only costs time: shapes of SmolLM2 and of a
model of 1.1 billion weights), `decode` (real steps over caches filled by chance, full and evicted
ones in turn; processor time), `long` (one real prompt of 128k tokens through SmolLM2's shape in a
process whose memory is limited, once with the full cache and once without), `counted` (bytes of
larger shapes by formula: memory alone, nothing is run).

Usage: python benchmarks/eviction.py pools decode long counted [--model packaged:smollm2]
[--large FOLDER] [--context 8192] [--text FILE.txt]
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import store

from treadle.model.load import resolve
from treadle.runtime.cache.pages import KeyValues, page_bytes
from treadle.runtime.choice import choose_executor
from treadle.runtime.executor import HeadTables, ModelShape, StepRows
from treadle.runtime.native_step.llama import LlamaStep

SMALL = ModelShape((3,) * 30, 64, 49152, 576, 131072, (None,) * 30)
LARGE = ModelShape((4,) * 22, 64, 32000, 2048, 131072, (None,) * 22)
SHAPES = {"SmolLM2-135M": SMALL, "1.1B": LARGE}
EIGHT, PHI = ((8,) * 32, 128), ((32,) * 32, 96)
COUNTED = {
    "Llama-3.1-8B, fp16 weights": (EIGHT, 8_030_261_248 * 2, 16384 + 1024),
    "Phi-3-mini-128k, fp16 weights": (PHI, 3_821_079_552 * 2, 6000 + 3072),
}
"""Shape of the cache, bytes of weights, entries of a head at most (Locret's budget and chunk)."""
PAGE, CHUNK, ROUNDS, LIMIT_BYTES = 16, 128, 9, 2 << 30


def pools() -> list[dict[str, Any]]:
    """Run prompts by a step that computes nothing and return what the pools held at most."""
    from treadle.runtime.admit.methods.fcfs import Fcfs
    from treadle.runtime.admit.queue import Queue
    from treadle.runtime.cache.pages import PagePool
    from treadle.runtime.cache.radix import PrefixTree
    from treadle.runtime.evict.keeping import choose_keeping
    from treadle.runtime.request import Request, SamplingParams
    from treadle.runtime.runner import Runner
    from treadle.runtime.schedule.batch import Batch
    from treadle.runtime.schedule.limits import Limits
    from treadle.runtime.timed import TimedExecutor

    found = []
    for name, shape in SHAPES.items():
        for tokens in (8192, 16384):
            one = page_bytes(shape.kv_heads, shape.head_dim, PAGE, "fp16")
            pages = tokens // PAGE + 64
            running, peaks = {}, {}
            for budget in (None, tokens // 8):
                keep = None if budget is None else choose_keeping("random", budget)
                cache = KeyValues(shape.kv_heads, shape.head_dim, pages, PAGE, "fp16")
                pool = PagePool(cache)
                tree = PrefixTree(pool)
                batch = Batch(pool, tree, Queue(Fcfs(), tree), Limits(), time.monotonic)
                runner = Runner(batch, TimedExecutor(shape, lambda _: None), frozenset(), time.time)
                for number in range(16):
                    params = SamplingParams(max_tokens=8, temperature=0)
                    text = [(7 * number + place) % 1000 for place in range(tokens - 16)]
                    request = Request(str(number), text, len(text), params, 0, keep=keep)
                    batch.add(request, len(text) + 8)
                    if number == 0:
                        while request.finish_reason is None:
                            runner.step()
                        peaks[budget] = (
                            batch.holdings.planes.most_held * cache.plane_bytes
                            if keep
                            else pool.most_held * one
                        )
                most = 0
                for _ in range(200):
                    runner.step()
                    most = max(most, len(batch.running))
                running[budget] = most
            slot = (page_bytes(shape.kv_heads, shape.head_dim, 1, "fp16")) + 4 * shape.num_heads
            bound = (tokens // 8 + CHUNK) * slot
            entry = {
                "shape": name,
                "tokens": tokens,
                "budget": tokens // 8,
                "full_bytes": peaks[None],
                "evicted_bytes": peaks[tokens // 8],
                "budget_and_chunk_bytes": bound,
                "over_bound": peaks[tokens // 8] / bound - 1,
                "running_full": running[None],
                "running_evicted": running[tokens // 8],
            }
            print(entry, flush=True)
            found.append(entry)
    return found


def filled(step: LlamaStep, batch: int, context: int) -> KeyValues:
    """Return a cache of random keys and values for so many texts."""
    pages = batch * (context // PAGE + 1)
    cache = KeyValues(step.shape.kv_heads, step.shape.head_dim, pages, PAGE, "fp16")
    draw = np.random.default_rng(0)
    some = draw.normal(size=1 << 20).astype(np.float16)
    for array in (cache.arena.keys, cache.arena.values):
        flat = array.reshape(-1)
        for first in range(0, flat.size, some.size):
            flat[first : first + some.size] = some[: flat.size - first]
    return cache


def full_rows(batch: int, context: int) -> StepRows:
    """Return a row for each of so many texts that hold all of their context."""
    each = context // PAGE + 1
    tables = np.arange(batch * each, dtype=np.int32)
    rows, place = np.arange(batch, dtype=np.int32), np.full(batch, context - 1, np.int32)
    slots = tables.reshape(batch, each)[:, (context - 1) // PAGE] * PAGE + (context - 1) % PAGE
    starts = np.arange(batch + 1, dtype=np.int32)
    lengths = np.full(batch, context, np.int32)
    return StepRows(rows + 5, place, slots, starts, lengths, starts * each, tables, rows)


def kept_rows(cache: KeyValues, batch: int, context: int, budget: int) -> StepRows:
    """Return the same of texts whose heads keep `budget` entries each."""
    heads, each = cache.num_heads, -(-budget // PAGE)
    own = np.arange(batch * heads * each, dtype=np.int32).reshape(batch, heads, each)
    rows, place = np.arange(batch, dtype=np.int32), np.full(batch, context - 1, np.int32)
    tables = HeadTables(rows, np.full((batch, heads), budget, np.int32), own)
    starts, nothing = np.arange(batch + 1, dtype=np.int32), np.zeros(batch + 1, np.int32)
    lengths = np.full(batch, budget, np.int32)
    absent = np.full(batch, -1, np.int32)
    empty = np.zeros(0, np.int32)
    return StepRows(rows + 5, place, absent, starts, lengths, nothing, empty, rows, heads=tables)


def seconds(step: LlamaStep, rows: StepRows, cache: KeyValues) -> float:
    """Return the processor time of a step."""
    begin = time.process_time()
    step.forward(rows, cache)
    return time.process_time() - begin


def decode(name: str, folder: Path, context: int) -> list[dict[str, Any]]:
    """Time steps over full and evicted caches in turn."""
    step = choose_executor(folder, "q8", 1)
    assert isinstance(step, LlamaStep)
    found = []
    for batch in (1, 8):
        cache = filled(step, batch, context)
        rows = (full_rows(batch, context), kept_rows(cache, batch, context, context // 8))
        for own in rows:
            step.forward(own, cache)
        pairs = [[seconds(step, own, cache) for own in rows] for _ in range(ROUNDS)]
        ratios = sorted(full / kept for full, kept in pairs)
        weights, each = step.weight_bytes, cache.token_bytes * context * batch
        entry = {
            "model": name,
            "context": context,
            "batch": batch,
            "full_seconds": median(full for full, _ in pairs),
            "evicted_seconds": median(kept for _, kept in pairs),
            "ratio": median(ratios),
            "quartiles": [ratios[len(ratios) // 4], ratios[-len(ratios) // 4]],
            "bytes_limit": (weights + each) / (weights + each / 8),
            "of_limit": median(ratios) / ((weights + each) / (weights + each / 8)),
        }
        print(entry, flush=True)
        found.append(entry)
    step.close()
    return found


LONG = """
import json, resource, sys, time
asked = json.load(open(sys.argv[1]))
resource.setrlimit(resource.RLIMIT_DATA, (asked["limit"], asked["limit"]))
from treadle.runtime import LLM, SamplingParams
options = {"weights": "q8", "num_threads": 1, "cache_bytes": asked["cache_bytes"]}
begin = time.process_time()
try:
    llm = LLM(asked["folder"], **options, **asked["keep"])
    (out,) = llm.generate([asked["tokens"]], SamplingParams(max_tokens=8, temperature=0))
    report = llm.load_report()
    found = {"answer": out.outputs[0].token_ids, "peak_bytes": report.peak_kept_bytes}
except Exception as error:
    found = {"refused": f"{type(error).__name__}: {error}"[:300]}
with open("/proc/self/status") as file:
    held = next(1024 * int(line.split()[1]) for line in file if line.startswith("VmHWM"))
found |= {"cpu_seconds": time.process_time() - begin, "resident_bytes": held}
json.dump(found, open(sys.argv[2], "w"))
"""


def long(folder: Path, text: Path, tokens: int) -> list[dict[str, Any]]:
    """Read one prompt of many tokens in processes whose memory is limited."""
    from treadle.runtime import LLM

    found = []
    with tempfile.TemporaryDirectory(dir=folder.parent) as room:
        own = Path(room) / "long"
        shutil.copytree(folder, own, copy_function=os.link)
        config = json.loads((folder / "config.json").read_text())
        (own / "config.json").unlink()
        config |= {"max_position_embeddings": tokens + 64}
        (own / "config.json").write_text(json.dumps(config))
        (own / "treadle.json").unlink(missing_ok=True)
        llm = LLM(own, weights="q8", num_threads=1, cache_bytes=2**24)
        content = text.read_text()
        ids = llm.prompts.tokens(content[: 3 * tokens])[:tokens]
        ids = (ids * (tokens // len(ids) + 1))[:tokens]
        full = llm.shape.num_heads * 64 * 2 * 2 * (tokens + 64) * 17 // 16
        del llm
        for keep, cache in (
            ({}, full),
            ({"keep": "snapkv", "keep_budget": 2048}, 160 << 20),
        ):
            asked = {"limit": LIMIT_BYTES, "folder": str(own), "cache_bytes": cache, "keep": keep}
            question, answer = Path(room) / "asked.json", Path(room) / "found.json"
            question.write_text(json.dumps({**asked, "tokens": ids}))
            subprocess.run([sys.executable, "-c", LONG, str(question), str(answer)], check=True)
            entry = {"tokens": tokens, "keep": keep, "cache_bytes": cache, "limit": LIMIT_BYTES}
            found.append(entry | json.loads(answer.read_text()))
            print(found[-1], flush=True)
    return found


def counted() -> list[dict[str, Any]]:
    """Return the bytes of caches of 128k tokens, by formula."""
    found = []
    for name, ((kv_heads, dim), weights, entries) in COUNTED.items():
        slot = page_bytes(kv_heads, dim, 1, "fp16")
        full, kept = 131072 * slot, entries * (slot + 4 * sum(kv_heads))
        entry = {
            "shape": name,
            "label": "counted, memory only; nothing was run",
            "weights_bytes": weights,
            "full_cache_bytes": full,
            "kept_cache_bytes": kept,
            "full_fits_24_gb": weights + full < 24e9,
            "kept_fits_24_gb": weights + kept < 24e9,
        }
        print(entry)
        found.append(entry)
    return found


def main() -> None:
    """Run the parts that are asked for and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="+", choices=["pools", "decode", "long", "counted"])
    parser.add_argument("--model", default="packaged:smollm2")
    parser.add_argument("--large", type=Path, help="a folder of 1.1 billion weights, for decode")
    parser.add_argument("--context", type=int, default=8192)
    parser.add_argument("--tokens", type=int, default=131072)
    parser.add_argument("--text", type=Path)
    asked = parser.parse_args()
    found: dict[str, Any] = {}
    if "pools" in asked.parts:
        found["pools"] = pools()
    if "decode" in asked.parts:
        found["decode"] = decode("model", resolve(asked.model), asked.context)
        if asked.large is not None:
            found["decode"] += decode("1.1B", asked.large, asked.context)
    if "long" in asked.parts:
        found["long"] = long(resolve(asked.model), asked.text, asked.tokens)
    if "counted" in asked.parts:
        found["counted"] = counted()
    theme = "eviction_" + "_".join(asked.parts)
    print("written", store.write(theme, found))


if __name__ == "__main__":
    main()
