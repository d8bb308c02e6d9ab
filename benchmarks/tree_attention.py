"""Decoding many branches behind one prompt, by every way to attend over their tree.

Branches share a prompt and have TAIL tokens of their own; a step runs one more token of each. All
modes run the same step one after the other, in turns, on the same cache; seconds are those of the
processors, of attention alone and of the whole step (plan and all), as ratios to "path", in which
every branch reads the prompt for itself with the same inner loops. Beside them: the bytes of keys
and values that each mode reads, the operations a second against the measured float32 peak, and the
times a step could be faster if attention ran at that peak, or took no time.

--llamacpp PY lets llama.cpp decode as many parallel sequences, which share the prompt's cells
(llama_memory_seq_cp), from the same Q8_0 file. --shape 8b is one layer in the shape of Llama-3-8B
(random weights in 8 bits): its keys and values do not fit into the third cache.

Usage: python benchmarks/tree_attention.py [--llamacpp PY] [--prompts 512 ...] [--widths 4 ...]
       [--weights fp32 q8] [--kv fp32 fp16] [--shape smollm2|8b]
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import store
from runtime_engines import Side, llamacpp, packaged_gguf, write_as

from treadle.core import hardware
from treadle.model.load import resolve
from treadle.runtime.cache.pages import KeyValues
from treadle.runtime.executor import StepRows
from treadle.runtime.native_step.llama import LlamaStep
from treadle.runtime.sharing.account import AttentionShape, CountedNode, traffic

MODES = ("path", "flatten", "cascade", "node", "node_chunk", "dense")
PAGE, TAIL, STEPS = 16, 32, 8
WIDTHS = {"fp32": 4, "fp16": 2, "int8": 1}


def branches(prompt: int, width: int) -> tuple[StepRows, int]:
    """Make the next token of each branch; returns the rows and the pages of the cache."""
    shared, own = prompt // PAGE, -(-(TAIL + 1) // PAGE)
    first = np.arange(width)[:, None] * own + shared
    table = np.concatenate([np.tile(np.arange(shared), (width, 1)), first + np.arange(own)], axis=1)
    slot = prompt + TAIL
    arrays = (
        *(np.arange(5, 5 + width), np.full(width, slot)),
        *(table[:, slot // PAGE] * PAGE + slot % PAGE, np.arange(width + 1)),
        *(np.full(width, slot + 1), np.arange(width + 1) * table.shape[1], table.ravel()),
        np.arange(width),
    )
    rows = StepRows(*(np.ascontiguousarray(one, np.int32) for one in arrays))
    return rows, shared + width * own


def filled(step: LlamaStep, num_pages: int, kv: str) -> KeyValues:
    """Return a cache of numbers as texts have them; some processors take zeros faster."""
    pool = KeyValues(step.shape.kv_heads, step.shape.head_dim, num_pages, PAGE, kv)
    draws = np.random.default_rng(0)
    for array in (pool.arena.keys, pool.arena.values):
        some = draws.normal(size=array[:64].shape)
        some = np.rint(20 * some) if kv == "int8" else some
        for at in range(0, len(array), 64):
            array[at : at + 64] = some[: len(array[at : at + 64])]
    for scales in (pool.arena.key_scales, pool.arena.value_scales):
        if scales is not None:
            scales[:] = 0.05
    return pool


def cell(step: LlamaStep, prompt: int, width: int, kv: str, rounds: int) -> dict[str, Any]:
    """Seconds of each mode, and how its logits compare with those of path."""
    rows, num_pages = branches(prompt, width)
    pool = filled(step, num_pages, kv)
    spent: dict[str, list[tuple[float, float, float]]] = {mode: [] for mode in MODES}
    logits = {}
    for number in range(rounds + 1):
        turn = number % len(MODES)
        for mode in MODES[turn:] + MODES[:turn]:
            step.tree_attention = mode
            # A run of the mode: what it plans serves as long as the tree stays what it is.
            for repeat in range(2):
                step.time_attention(True)
                plan, begin = step.sharing.plan_seconds, time.process_time()
                logits[mode] = step.forward(rows, pool)
                whole = time.process_time() - begin
                attention = step.time_attention(False)
                if number and repeat:
                    plan = step.sharing.plan_seconds - plan
                    spent[mode].append((attention, whole, plan))
    found: dict[str, Any] = {}
    for mode, values in spent.items():
        attention, whole, plan = (statistics.median(one) for one in zip(*values, strict=True))
        best = logits[mode].argmax(axis=1) == logits["path"].argmax(axis=1)
        found[mode] = {
            "attention_seconds": attention,
            "step_seconds": whole,
            "plan_seconds": plan,
            "has_equal_bits": bool(np.array_equal(logits[mode], logits["path"])),
            "other_tokens": int((~best).sum()),
        }
    return found


def shape_of(step: LlamaStep, kv: str) -> AttentionShape:
    dim = step.shape.head_dim
    each = 2 * dim * WIDTHS[kv] + (8 if kv == "int8" else 0)
    return AttentionShape(step.query_heads, step.shape.kv_heads, dim, each)


def judged(
    step: LlamaStep, prompt: int, width: int, kv: str, found: dict[str, Any], peak: float
) -> None:
    """Add bytes, rates and ceilings."""
    nodes = [CountedNode(prompt, width), *[CountedNode(TAIL + 1, 1, 0)] * width]
    shape = shape_of(step, kv)
    work = 4 * width * (prompt + TAIL + 1) * sum(shape.heads) * shape.dim
    base = found["path"]
    rest = base["step_seconds"] - base["attention_seconds"]
    found["times_faster_if_attention_were_free"] = base["step_seconds"] / rest
    least = min(base["attention_seconds"], work / peak)
    found["times_faster_at_the_peak"] = base["step_seconds"] / (rest + least)
    for mode in MODES:
        one = found[mode]
        one["kv_bytes"] = traffic(mode, nodes, width, shape).keys_values
        one["of_peak"] = work / one["attention_seconds"] / peak
        one["attention_ratio"] = one["attention_seconds"] / base["attention_seconds"]
        one["step_ratio"] = one["step_seconds"] / base["step_seconds"]


def show(name: str, found: dict[str, Any]) -> None:
    base = found["path"]
    times = f"{1e3 * base['attention_seconds']:6.1f} of {1e3 * base['step_seconds']:6.1f} ms"
    words = f"{name:26} path {times}"
    for mode in MODES[1:]:
        words += f" | {mode} {found[mode]['attention_ratio']:.2f} {found[mode]['step_ratio']:.2f}"
    words += f" | flatten {found['flatten']['of_peak']:.2f} of the peak, "
    words += f"{base['kv_bytes'] / found['flatten']['kv_bytes']:.1f} times fewer bytes, step "
    words += f"{1 / found['flatten']['step_ratio']:.2f} times faster, at most "
    words += f"{found['times_faster_at_the_peak']:.2f}"
    print(words, flush=True)


def large(folder: Path) -> Path:
    """One layer in the shape of Llama-3-8B."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        hidden_size=4096,
        intermediate_size=14336,
        num_hidden_layers=1,
        num_attention_heads=32,
        num_key_value_heads=8,
        vocab_size=1024,
        max_position_embeddings=16384,
    )
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def peers(arguments: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Time parallel sequences of llama.cpp, and as many branches here, from one file."""
    file = work / "smollm2.Q8_0.gguf"
    write_as(packaged_gguf(), file, "Q8_0")
    side: Side = llamacpp(arguments.llamacpp, str(file), arguments.threads, "llama.cpp", "copy")
    step = LlamaStep(file, "auto", arguments.threads)
    found = {}
    draws = np.random.default_rng(3)
    for prompt in arguments.prompts:
        text = draws.integers(3, 49152, prompt + TAIL).tolist()
        for width in arguments.widths:
            side.ask(prompt=text, sequences=width)
            side.ask(steps=2, sequences=width)
            rows, num_pages = branches(prompt, width)
            pool = filled(step, num_pages, "fp16")
            theirs, ours = [], []
            for number in range(arguments.rounds + 1):
                spent = side.ask(steps=STEPS, sequences=width)["cpu_seconds"] / STEPS
                begin = time.process_time()
                for _ in range(STEPS):
                    step.forward(rows, pool)
                own = (time.process_time() - begin) / STEPS
                if number:
                    theirs.append(spent)
                    ours.append(own)
            medians = statistics.median(theirs), statistics.median(ours)
            found[f"{prompt} x {width}"] = {"llama.cpp": medians[0], "treadle": medians[1]}
            print(
                f"Q8_0 {prompt:5} x {width:2} a step: llama.cpp {1e3 * medians[0]:7.1f} ms, "
                f"treadle {1e3 * medians[1]:7.1f} ms, {medians[0] / medians[1]:.2f} times faster",
                flush=True,
            )
    side.close()
    step.close()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompts", type=int, nargs="+", default=[512, 1024, 2048, 4096])
    parser.add_argument("--widths", type=int, nargs="+", default=[4, 8, 16, 32])
    parser.add_argument("--weights", nargs="+", default=["fp32", "q8"])
    parser.add_argument("--kv", nargs="+", default=["fp32", "fp16"])
    parser.add_argument("--shape", choices=["smollm2", "8b"], default="smollm2")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--llamacpp")
    arguments = parser.parse_args()
    peak = hardware.measure(refresh=True).multiply_peak_flops_per_second
    cells: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        folder = large(work / "8b") if arguments.shape == "8b" else resolve("packaged:smollm2")
        for weights in arguments.weights:
            step = LlamaStep(folder, weights, arguments.threads)
            for kv in arguments.kv:
                for prompt in arguments.prompts:
                    for width in arguments.widths:
                        found = cell(step, prompt, width, kv, arguments.rounds)
                        judged(step, prompt, width, kv, found, peak)
                        label = f"{weights} {kv} {prompt} x {width}"
                        show(label, found)
                        cells[label] = found
            step.close()
        beside = peers(arguments, work) if arguments.llamacpp else {}
    theme = f"tree_attention{'' if arguments.shape == 'smollm2' else '_8b'}_{arguments.threads}t"
    content = {"multiply_peak_flops_per_second": peak, "cells": cells, "llama.cpp": beside}
    print(store.write(theme, content))


if __name__ == "__main__":
    main()
