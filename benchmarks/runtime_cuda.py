"""The generic executor on a CUDA device against transformers' generate: same model, same prompts.

Random weights in the shape of a 1.1B Llama, float32 on both sides (what the generic executor
computes in), greedy, the same numbers of new tokens, sides interleaved. transformers answers the
requests as one static, left-padded batch; treadle schedules them over its pages. Beside the rates:
how many first tokens agree, and the peak memory of the device.

Usage (make bench-gpu): python benchmarks/runtime_cuda.py [--rounds 3]
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import store
import torch

from treadle.model import tiny
from treadle.runtime import LLM, SamplingParams

SHAPE = {
    **{"hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 22},
    **{"num_attention_heads": 32, "num_key_value_heads": 4, "head_dim": 64},
    **{"max_position_embeddings": 2048, "vocab_size": 32000},
}
NEW_TOKENS = 64
Tokens = list[list[int]]


def theirs(folder: Path) -> Callable[[Tokens], Tokens]:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval().to("cuda")

    def answer(prompts: Tokens) -> Tokens:
        width = max(map(len, prompts))
        rows = [[0] * (width - len(row)) + row for row in prompts]
        mask = [[0] * (width - len(row)) + [1] * len(row) for row in prompts]
        with torch.inference_mode():
            out = model.generate(
                torch.tensor(rows, device="cuda"),
                attention_mask=torch.tensor(mask, device="cuda"),
                max_new_tokens=NEW_TOKENS,
                min_new_tokens=NEW_TOKENS,
                do_sample=False,
                pad_token_id=0,
            )
        return out[:, width:].tolist()

    return answer


def ours(folder: Path) -> Callable[[Tokens], Tokens]:
    llm = LLM(folder, device="cuda", enable_prefix_caching=False, cache_bytes=1 << 30)
    params = SamplingParams(max_tokens=NEW_TOKENS, temperature=0.0, ignore_eos=True)
    return lambda prompts: [list(out.outputs[0].token_ids) for out in llm.generate(prompts, params)]


def timed(answer: Callable[[Tokens], Tokens], prompts: Tokens) -> tuple[float, Tokens]:
    torch.cuda.synchronize()
    began = time.perf_counter()
    found = answer(prompts)
    torch.cuda.synchronize()
    return time.perf_counter() - began, found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 16])
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("There is no CUDA device here.")
    draws, rows = np.random.default_rng(0), {}
    with tempfile.TemporaryDirectory() as work:
        folder = tiny.build("llama", Path(work) / "model", **SHAPE)
        sides = {"transformers": theirs(folder), "treadle": ours(folder)}
        for batch in arguments.batches:
            seconds: dict[str, list[float]] = {name: [] for name in sides}
            same = total = 0
            for turn in range(arguments.rounds + 1):
                lengths = draws.integers(16, 256, batch)
                prompts = [draws.integers(3, 32000, size).tolist() for size in lengths]
                found = {}
                for name, answer in sides.items():
                    took, found[name] = timed(answer, prompts)
                    if turn:  # the first one warms up
                        seconds[name].append(took)
                for one, other in zip(found["transformers"], found["treadle"], strict=True):
                    same, total = same + (one[0] == other[0]), total + 1
            row: dict[str, Any] = {
                name: batch * NEW_TOKENS / statistics.median(took) for name, took in seconds.items()
            }
            pairs = zip(seconds["transformers"], seconds["treadle"], strict=True)
            row["ratio"] = statistics.median(one / other for one, other in pairs)
            row["first_tokens_equal"] = [same, total]
            rows[f"batch {batch}"] = row
            print(batch, row, flush=True)
    content = {
        "device": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "peak_device_bytes": torch.cuda.max_memory_allocated(),
        "rows": rows,
    }
    print(store.write("runtime_cuda", content))


if __name__ == "__main__":
    main()
