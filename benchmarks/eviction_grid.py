"""Every eviction policy with every type of cache: quality, bytes and speed of the same texts.

Texts of a file are scored token by token through caches that keep a share of them (kivi: all, in 4
and 2 bits): mean loss beside the full cache in float32, what the cache held at most, and processor
time of all rows. With a folder of trained heads, what these cost a prompt whose budget is never
reached: paired rounds of the same prompt.

Usage: python benchmarks/eviction_grid.py --text FILE.txt [--model FOLDER] [--budget 0.125]
"""

import argparse
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import store

from treadle.model.load import load_tokenizer, resolve
from treadle.model.text import windows
from treadle.runtime import LLM, SamplingParams
from treadle.runtime.cache.forms import KV_DTYPES

POLICIES = ("sinks", "key_norm", "snapkv", "tova", "entropy", "expected", "random")
PACKED = ({"method": "kivi", "bits": 4}, {"method": "kivi", "bits": 2})
CACHE_BYTES = 1 << 28


def trained(folder: Path) -> list[str]:
    """Return the policies whose heads lie in a folder."""
    return [file.stem.removeprefix("retaining-") for file in folder.glob("retaining-*.safetensors")]


def row(
    executor: Any, folder: Path, texts: list[list[int]], dtype: str, keep: Any, budget: float | None
) -> dict[str, Any]:
    """Return what scoring the texts gave and took through one cache."""
    llm = LLM(
        folder,
        executor=executor,
        kv_dtype=dtype,
        keep=keep,
        keep_budget=budget,
        cache_bytes=CACHE_BYTES,
        max_num_seqs=1,
        enable_prefix_caching=False,
    )
    begin = time.process_time()
    losses = np.concatenate([-values for values in llm.log_probs(texts)])
    spent, report = time.process_time() - begin, llm.load_report()
    name = "full" if keep is None else keep
    if isinstance(keep, dict):
        name = f"{keep['method']} {keep['bits']} bits"
    return {
        "policy": name,
        "kv_dtype": dtype,
        "budget": budget,
        "loss": float(losses.mean()),
        "peak_bytes": report.peak_cache_bytes if keep is None else report.peak_kept_bytes,
        "cpu_seconds": spent,
    }


def grid(model: LLM, folder: Path, texts: list[list[int]], budget: float) -> list[dict[str, Any]]:
    """Return a row of each policy and type of cache."""
    found, policies = [], [*POLICIES, *trained(folder)]
    for dtype in KV_DTYPES:
        asked: list[tuple[Any, float | None]] = [(None, None)]
        asked += [(name, budget) for name in policies]
        asked += [(keep, None) for keep in PACKED if dtype in ("fp32", "fp16")]
        for keep, own in asked:
            one = row(model.executor, folder, texts, dtype, keep, own)
            one["beside_full_fp32"] = one["loss"] - found[0]["loss"] if found else 0.0
            found.append(one)
            print(
                f"{dtype:5} {one['policy']:12} loss {one['loss']:.4f} "
                f"({one['beside_full_fp32']:+.4f}) {one['peak_bytes'] / 1e6:7.2f} MB "
                f"{one['cpu_seconds']:6.2f} s",
                flush=True,
            )
    return found


def overhead(model: LLM, folder: Path, text: list[int], rounds: int) -> list[dict[str, Any]]:
    """Return what trained heads add to a prompt that loses nothing."""
    found = []
    params = SamplingParams(max_tokens=1, temperature=0.0)
    for name in trained(folder):
        ratios = []
        for _ in range(rounds):
            spent = []
            for keep in (None, name):
                llm = LLM(
                    folder,
                    executor=model.executor,
                    keep=keep,
                    keep_budget=None if keep is None else 1.0,
                    cache_bytes=CACHE_BYTES,
                    enable_prefix_caching=False,
                )
                begin = time.process_time()
                llm.generate([text], params)
                spent.append(time.process_time() - begin)
            ratios.append(spent[1] / spent[0])
        file = folder / f"retaining-{name}.safetensors"
        found.append(
            {
                "policy": name,
                "prompt_ratio": median(ratios),
                "ratios": ratios,
                "bytes": file.stat().st_size,
            }
        )
        print(f"heads of {name}: a prompt takes {median(ratios):.3f} times as long", flush=True)
    return found


def main() -> None:
    """Run both parts and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--text", required=True)
    parser.add_argument("--model", default="packaged:smollm2")
    parser.add_argument("--weights", default="q8")
    parser.add_argument("--budget", type=float, default=0.125)
    parser.add_argument("--num-texts", type=int, default=2)
    parser.add_argument("--num-tokens", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=5)
    asked = parser.parse_args()
    folder = resolve(asked.model)
    tokenizer = load_tokenizer(folder)
    texts = windows(asked.text, tokenizer, asked.num_texts, asked.num_tokens).tokens.tolist()
    model = LLM(folder, weights=asked.weights, num_threads=1, cache_bytes=CACHE_BYTES)
    content = {
        "budget": asked.budget,
        "num_texts": asked.num_texts,
        "num_tokens": asked.num_tokens,
        "weights": asked.weights,
        "rows": grid(model, folder, texts, asked.budget),
        "heads": overhead(model, folder, texts[0], asked.rounds),
    }
    print("written", store.write("eviction_grid_1t", content))


if __name__ == "__main__":
    main()
