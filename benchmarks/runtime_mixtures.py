"""Mixtures of experts in the native step against the generic executor, on random weights.

Both read the same folder, one thread each, interleaved: an answer to one prompt, to eight at once,
and the reading of a prompt. Processor seconds a token, medians of the rounds with quartiles; the
ceiling is what reading a token's weights takes at the best rate that was measured (at batch 1). The
quality is how far the log-probabilities of a text are from the generic executor's.

Usage: python benchmarks/runtime_mixtures.py [--rounds 5] [--weights fp32 q8 q4_0]
"""

import argparse
import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import store
import torch
from transformers import AutoModelForCausalLM, Qwen3MoeConfig

from treadle.core import hardware
from treadle.model import tiny
from treadle.runtime import LLM, SamplingParams
from treadle.runtime.native_step.llama import LlamaStep
from treadle.runtime.transformers_step.generic import GenericExecutor

SHAPE = {
    "hidden_size": 512,
    "num_hidden_layers": 8,
    "num_experts": 32,
    "num_experts_per_tok": 4,
    "moe_intermediate_size": 256,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 64,
    "vocab_size": 8192,
    "norm_topk_prob": True,
}
PROMPT, ANSWER, TEXT = 16, 64, 256


def random_model(folder: Path) -> Path:
    """Write a mixture of random weights."""
    torch.manual_seed(0)
    config = Qwen3MoeConfig(**SHAPE, bos_token_id=0, eos_token_id=0, pad_token_id=0)
    AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(folder)
    tiny.tokenizer(folder)
    return folder


def prompts(count: int, length: int) -> list[list[int]]:
    draw = np.random.default_rng(0)
    return [draw.integers(1, SHAPE["vocab_size"], length).tolist() for _ in range(count)]


def seconds(run: Callable[[], object]) -> float:
    """Return the processor time of a call."""
    begin = time.process_time()
    run()
    return time.process_time() - begin


def measured(llm: LLM) -> dict[str, float]:
    """Return processor seconds a token of each kind of work."""
    answer = SamplingParams(max_tokens=ANSWER, temperature=0, ignore_eos=True)
    one = SamplingParams(max_tokens=1, temperature=0, ignore_eos=True)
    found = {}
    for name, count, length, params, tokens in (
        ("answer 1", 1, PROMPT, answer, ANSWER),
        ("answer 8", 8, PROMPT, answer, 8 * ANSWER),
        ("read 256", 1, TEXT, one, TEXT),
    ):
        asked = prompts(count, length)
        found[name] = seconds(lambda a=asked, p=params: llm.generate(a, p)) / tokens
    return found


def most_bytes_a_second() -> float:
    """Return the best of a few measurements: others may read memory meanwhile."""
    found = [hardware.measure(refresh=True) for _ in range(4)]
    return max(one.read_bandwidth_bytes_per_second for one in found)


def spread(values: list[float]) -> dict[str, float]:
    low, middle, high = statistics.quantiles(values, n=4)
    return {"median": middle, "low": low, "high": high}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--weights", nargs="+", default=["fp32", "q8", "q4_0"])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as work:
        folder = random_model(Path(work) / "model")
        steps = {form: LlamaStep(folder, form, 1) for form in arguments.weights}
        executors: dict[str, Any] = {"generic": GenericExecutor.from_folder(folder), **steps}
        settings = {"cache_bytes": 2**26, "enable_prefix_caching": False}
        sides = {name: LLM(folder, executor=one, **settings) for name, one in executors.items()}
        text = prompts(1, TEXT)
        told = {name: np.concatenate(llm.log_probs(text)) for name, llm in sides.items()}
        rounds: dict[str, list[dict[str, float]]] = {name: [] for name in sides}
        for number in range(arguments.rounds + 1):
            for name, llm in sides.items():
                found = measured(llm)
                if number:  # the first one warms up
                    rounds[name].append(found)
    bandwidth = most_bytes_a_second()
    rows = {}
    for name, found in rounds.items():
        kinds = {kind: [one[kind] for one in found] for kind in found[0]}
        generic = {kind: [one[kind] for one in rounds["generic"]] for kind in kinds}
        ratios = {
            kind: spread([g / own for g, own in zip(generic[kind], values, strict=True)])
            for kind, values in kinds.items()
        }
        row: dict[str, Any] = {
            "processor_seconds_a_token": {kind: spread(v) for kind, v in kinds.items()},
            "times_faster_than_generic": ratios,
            "largest_difference_nats": float(np.abs(told[name] - told["generic"]).max()),
            "rms_difference_nats": float(np.sqrt(np.square(told[name] - told["generic"]).mean())),
        }
        if name in steps:
            num_bytes = steps[name].weight_bytes
            row |= {"bytes_a_token": num_bytes, "ceiling_seconds_a_token": num_bytes / bandwidth}
        rows[name] = row
        print(name, {kind: round(one["median"], 2) for kind, one in ratios.items()}, row)
    about = {"shape": SHAPE, "rounds": arguments.rounds, "read_bytes_a_second": bandwidth}
    print(store.write("runtime_mixtures_1t", {**about, "engines": rows}))


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
