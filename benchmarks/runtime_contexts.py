"""Answering behind few and many tokens, for one request and for many, beside llama.cpp.

Each engine reads a prompt of the context's length once and copies its cache for the other
sequences; then all sequences go on together, token by token, by the engine's own lowest call (the
executor's forward, llama_decode), the best token of each chosen on the way. Both engines' rounds
are interleaved; the keys and values of llama.cpp are float16, as it does by default. Seconds are
those of the processors; beside each rate stands what memory allows: the bytes of the weights once
and of each sequence's cache, at the measured reading rate. Prompts are timed with one sequence; the
two longest say what attention alone computes, beside the measured float32 peak.

--before SRC adds the runtime of another state of the sources, and without llama.cpp compares with
it. --text adds perplexities over windows of 2k, 4k and 8k tokens for each type of cache.

Usage: python benchmarks/runtime_contexts.py [--llamacpp PY] [--before SRC] [--text TEST.txt]
       [--contexts 128 ...] [--batches 1 8 32] [--forms Q8_0 Q4_0] [--kv fp32 fp16 int8]
"""

import argparse
import math
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import store
from runtime_engines import ENGINES, Side, llamacpp, packaged_gguf, write_as

from treadle.core import hardware
from treadle.model.load import load_tokenizer, resolve
from treadle.model.source import open_model
from treadle.model.text import windows

SEED, WARM, STEPS = 3, 2, 8


def side_of(file: Path, kv: str, threads: int, source: str | None = None) -> Side:
    words = [str(ENGINES / "ours.py"), str(file), "auto", str(threads), "64", kv]
    name = f"treadle {kv}" if source is None else "before"
    return Side(name, sys.executable, words, threads, source)


def prompt_rates(sides: list[Side], prompt: list[int], count: int) -> dict[str, float]:
    """Let all sides read a prompt for `count` sequences; returns tokens a processor second."""
    return {
        side.name: len(prompt) / side.ask(prompt=prompt, sequences=count)["cpu_seconds"]
        for side in sides
    }


def cell(sides: list[Side], count: int, rounds: int) -> dict[str, Any]:
    """Return each side's rates behind the prompt that it read, for `count` sequences."""
    rows: dict[str, Any] = {side.name: {"steps": []} for side in sides}
    for side in sides:
        side.ask(steps=WARM, sequences=count)
    for _ in range(rounds):
        for side in sides:
            spent = side.ask(steps=STEPS, sequences=count)
            rows[side.name]["steps"].append(spent["cpu_seconds"] / STEPS)
    for row in rows.values():
        row["tokens_per_cpu_second"] = count / statistics.median(row["steps"])
    return rows


def attention_rate(file: Path, first: tuple[int, float], second: tuple[int, float]) -> float:
    """Return the operations a second of attention alone, from prompts of two lengths.

    Seconds a token of a prompt are a + b n; b is attention's, which takes 4 dim operations for each
    query head and each of n / 2 keys.
    """
    with open_model(file) as reader:
        config = reader.config
    slope = (1 / second[1] - 1 / first[1]) / (second[0] - first[0])
    return 2 * config["num_hidden_layers"] * config["hidden_size"] / slope


def show_attention(
    form: str, file: Path, prompts: dict[int, dict[str, float]], peak: float
) -> dict[str, float]:
    """Print what the two longest prompts say of attention; returns its rates by side."""
    if len(prompts) < 2:
        return {}
    (near, first), (far, second) = sorted(prompts.items())[-2:]
    found = {}
    for name, rate in second.items():
        found[name] = attention_rate(file, (near, first[name]), (far, rate))
        print(
            f"{form} prompts of {near} and {far}: {name:13} attention {found[name] / 1e9:6.1f} "
            f"GFLOP/s, {found[name] / peak:.2f} of the float32 peak of {peak / 1e9:.1f}",
            flush=True,
        )
    return found


def ceiling(file: Path, kv: str, context: int, count: int, rate: float) -> float:
    """Tokens a second that memory allows."""
    with open_model(file) as reader:
        config = reader.config
    dim = config["hidden_size"] // config["num_attention_heads"]
    each = {"fp32": 4 * dim, "fp16": 2 * dim, "int8": dim + 4}[kv]
    cache = 2 * config["num_hidden_layers"] * config["num_key_value_heads"] * each * context
    return count * rate / (file.stat().st_size + count * cache)


def sweep(arguments: argparse.Namespace, work: Path) -> dict[str, Any]:
    machine = hardware.measure(refresh=True)
    rate, attention = machine.read_bandwidth_bytes_per_second, {}
    draws, found = np.random.default_rng(SEED), {}
    for form in arguments.forms:
        file = work / f"smollm2.{form}.gguf"
        write_as(packaged_gguf(), file, form)
        sides = [side_of(file, kv, arguments.threads) for kv in arguments.kv]
        if arguments.before:
            sides.append(side_of(file, "fp32", arguments.threads, arguments.before))
        if arguments.llamacpp:
            sides.append(llamacpp(arguments.llamacpp, str(file), arguments.threads, "llama.cpp"))
        read: dict[int, dict[str, float]] = {}
        for context in arguments.contexts:
            prompt = draws.integers(3, 49152, context).tolist()
            prompts = prompt_rates(sides, prompt, max(arguments.batches))
            read[context] = prompts
            for count in sorted(arguments.batches):
                rows = cell(sides, count, arguments.rounds)
                if count == min(arguments.batches):
                    for name, tokens in prompts.items():
                        rows[name]["prompt_tokens_per_cpu_second"] = tokens
                for kv in arguments.kv:
                    limit = ceiling(file, kv, context, count, rate)
                    rows[f"treadle {kv}"]["memory_allows"] = limit
                found[f"{form} {context} x {count}"] = rows
                show(form, context, count, rows)
        peak = machine.multiply_peak_flops_per_second
        attention[form] = show_attention(form, file, read, peak)
        for side in sides:
            side.close()
    return {"attention_flops_per_second": attention, "read_bytes_per_second": rate, "cells": found}


def show(form: str, context: int, count: int, rows: dict[str, Any]) -> None:
    peer = rows.get("llama.cpp", rows.get("before"))
    for name, row in rows.items():
        words = f"{form} {context:5} x {count:2}  {name:13} {row['tokens_per_cpu_second']:8.1f} "
        if "memory_allows" in row:
            words += f"(memory allows {row['memory_allows']:8.1f}) "
        if peer is not None and row is not peer:
            words += f"{row['tokens_per_cpu_second'] / peer['tokens_per_cpu_second']:5.2f} x "
        if "prompt_tokens_per_cpu_second" in row:
            words += f"| prompt {row['prompt_tokens_per_cpu_second']:7.1f} "
            if peer is not None and row is not peer:
                ratio = row["prompt_tokens_per_cpu_second"] / peer["prompt_tokens_per_cpu_second"]
                words += f"{ratio:5.2f} x"
        print(words, flush=True)


def quality(text: str, kvs: list[str]) -> dict[str, dict[str, float]]:
    """Perplexity of the packaged model over long windows, for each type of cache."""
    from treadle.runtime import LLM
    from treadle.runtime.scoring import RuntimeScorer

    folder = resolve("packaged:smollm2")
    found: dict[str, dict[str, float]] = {}
    for length in (2048, 4096, 8192):
        count = 8192 // length
        rows = windows(text, load_tokenizer(folder), count, length).tokens.tolist()
        for kv in kvs:
            scorer = RuntimeScorer(LLM(folder, kv_dtype=kv, cache_bytes=1 << 30))
            loss = np.mean([float(one.double().mean()) for one in scorer.token_losses(rows)])
            found.setdefault(str(length), {})[kv] = math.exp(loss)
        said = ", ".join(f"{kv} {found[str(length)][kv]:.4f}" for kv in kvs)
        print(f"perplexity over {count} windows of {length}: {said}", flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--llamacpp")
    parser.add_argument("--before", help="sources of another state, whose cache is fp32")
    parser.add_argument("--text")
    parser.add_argument("--contexts", type=int, nargs="+", default=[128, 1024, 4096, 7936])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--forms", nargs="+", default=["Q8_0", "Q4_0"])
    parser.add_argument("--kv", nargs="+", default=["fp32", "fp16", "int8"])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    content: dict[str, Any] = {"threads": arguments.threads, "rounds": arguments.rounds}
    if arguments.text:
        content["perplexity"] = quality(arguments.text, arguments.kv)
    with tempfile.TemporaryDirectory() as work:
        content |= sweep(arguments, Path(work))
    print(store.write(f"runtime_contexts_{arguments.threads}t", content))


if __name__ == "__main__":
    main()
