"""The runtime against transformers' generate: same model, prompts, lengths, threads, interleaved.

Eight real questions are continued by 64 tokens each, greedily and all at once; then one alone. The
peer is transformers in float32 with a static, left-padded batch. treadle runs its native step with
weights in float32, float16, 8 and 4 bits, and its generic executor. Tokens per second of wall and
of processor time; beside them the perplexity of each form on a text, because a speed without its
quality says nothing.

Usage: python benchmarks/runtime_peer.py --text TEST.txt [--threads 1] [--rounds 3]
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import store
import torch

from treadle.core import hardware
from treadle.model.load import load_tokenizer, resolve
from treadle.model.text import windows
from treadle.runtime import LLM, SamplingParams
from treadle.runtime.cache.pages import KeyValues
from treadle.runtime.executor import Executor, StepRows
from treadle.runtime.native_step.llama import LlamaStep
from treadle.runtime.transformers_step.generic import GenericExecutor

QUESTIONS = (
    "What is the capital of France?",
    "Write a Python function that reverses a list, and explain every line of it.",
    "Why is the sky blue?",
    "Name the planets of the solar system in their order from the sun, with one fact about each.",
    "How do I boil an egg?",
    "Summarise the plot of Romeo and Juliet in three sentences.",
    "What is 17 times 23? Think step by step.",
    "Explain to a child of eight years what a computer program is, with an example from a kitchen.",
)
NEW_TOKENS = 64
FORMS = ("fp32", "fp16", "q8", "q4_0", "q4_1")
PAGE_SIZE = 16


def peer(folder: Path) -> Callable[[list[str]], None]:
    from transformers import AutoModelForCausalLM

    tokenizer = load_tokenizer(folder)
    tokenizer.padding_side = "left"
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()

    def answer(prompts: list[str]) -> None:
        batch = tokenizer(prompts, return_tensors="pt", padding=True)
        with torch.no_grad():
            model.generate(
                **batch, max_new_tokens=NEW_TOKENS, min_new_tokens=NEW_TOKENS, do_sample=False
            )

    return answer


def ours(folder: Path, executor: Executor) -> Callable[[list[str]], None]:
    llm = LLM(folder, executor=executor, enable_prefix_caching=False)
    params = SamplingParams(max_tokens=NEW_TOKENS, temperature=0.0, ignore_eos=True)
    return lambda prompts: llm.generate(prompts, params) and None


def perplexity(folder: Path, executor: Executor, text: str, num_windows: int) -> float:
    """Return the perplexity of an executor's logits over whole windows of 512 tokens."""
    tokens = windows(text, load_tokenizer(folder), num_windows, 512).tokens.numpy()
    shape, num_pages = executor.shape, 512 // PAGE_SIZE
    places, pages = np.arange(512, dtype=np.int32), np.arange(num_pages, dtype=np.int32)
    ends = [np.array(pair, np.int32) for pair in ([0, 512], [512], [0, num_pages])]
    losses = []
    for row in tokens:
        pool = KeyValues(shape.kv_heads, shape.head_dim, num_pages, PAGE_SIZE, "fp32")
        rows = StepRows(row.astype(np.int32), places, places, *ends, pages, places)
        logits = torch.from_numpy(executor.forward(rows, pool))[:-1]
        losses.append(float(torch.nn.functional.cross_entropy(logits, torch.from_numpy(row[1:]))))
    return float(np.exp(statistics.mean(losses)))


def prompts_of(folder: Path) -> list[str]:
    tokenizer = load_tokenizer(folder)
    return [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": question}], add_generation_prompt=True, tokenize=False
        )
        for question in QUESTIONS
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="packaged:smollm2")
    parser.add_argument("--text", required=True)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--num-windows", type=int, default=8)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    folder = resolve(arguments.model)
    executors: dict[str, Executor] = {
        form: LlamaStep(folder, form, arguments.threads) for form in FORMS
    }
    executors["generic"] = GenericExecutor.from_folder(folder)
    quality = {
        name: perplexity(folder, executor, arguments.text, arguments.num_windows)
        for name, executor in executors.items()
    }
    sides = {"transformers": peer(folder)}
    sides |= {name: ours(folder, executor) for name, executor in executors.items()}
    prompts = prompts_of(folder)
    rows: dict[str, dict] = {name: {"perplexity": quality.get(name)} for name in sides}
    bandwidth = hardware.measure(refresh=True).read_bandwidth_bytes_per_second
    for batch in (8, 1):
        costs: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
        for _ in range(arguments.rounds):
            for name, answer in sides.items():
                wall, cpu = time.perf_counter(), time.process_time()
                answer(prompts[:batch])
                costs[name].append((time.perf_counter() - wall, time.process_time() - cpu))
        amount = batch * NEW_TOKENS
        for name, pairs in costs.items():
            ratios = [
                [p[kind] / o[kind] for p, o in zip(costs["transformers"], pairs, strict=True)]
                for kind in (0, 1)
            ]
            row = rows[name][f"batch {batch}"] = {
                "tokens_per_second": amount / statistics.median(w for w, _ in pairs),
                "tokens_per_cpu_second": amount / statistics.median(c for _, c in pairs),
                "wall_ratio": statistics.median(ratios[0]),
                "cpu_ratio": statistics.median(ratios[1]),
            }
            print(
                f"batch {batch} {name:13} {row['tokens_per_second']:6.1f} tokens/s "
                f"({row['wall_ratio']:.2f} x transformers; by CPU time {row['cpu_ratio']:.2f} x), "
                f"perplexity {rows[name]['perplexity'] or float('nan'):.3f}",
                flush=True,
            )
    for form in FORMS:
        executor = executors[form]
        rows[form]["weight_bytes"] = executor.weight_bytes
        rate = rows[form]["batch 1"]["tokens_per_second"]
        rows[form]["roofline_fraction"] = rate * executor.weight_bytes / bandwidth
        print(f"{form}: {rows[form]['roofline_fraction']:.2f} of one thread's reading bandwidth")
    content = {
        "threads": arguments.threads,
        "rounds": arguments.rounds,
        "read_bandwidth_bytes_per_second": bandwidth,
        "rows": rows,
    }
    print(store.write(f"runtime_peer_{arguments.threads}t", content))


if __name__ == "__main__":
    main()
