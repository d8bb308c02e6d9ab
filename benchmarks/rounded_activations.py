"""What rounding activations to 8 bits costs beside rounding weights: noise by token, perplexity.

The native step rounds activations to 8 bits where they meet weights of 8 or 4 bits. Three models
score the same tokens: the floats, the rounded weights as floats (activations in float32), and the
codes (activations in 8 bits). All run in the native step, so that nothing else differs.

Usage: python benchmarks/rounded_activations.py [--num-windows 16] [--work DIR]
"""

import argparse
import math
import shutil
from pathlib import Path

import numpy as np
import store
from safetensors.numpy import load_file, save_file

from treadle.core.codec import quantize_q4_0, quantize_q4_1, quantize_q8_0
from treadle.model.load import load_tokenizer, resolve
from treadle.model.text import windows
from treadle.runtime import LLM
from treadle.runtime.scoring import RuntimeScorer

BLOCK = 32


def decoded(weight: np.ndarray, form: str) -> np.ndarray:
    """Return a matrix as its codes in `form` say it."""
    rows, cols = weight.shape
    if form == "q8":
        codes, scales = quantize_q8_0(weight)
        return (codes.reshape(rows, -1, BLOCK) * scales.astype(np.float32)[..., None]).reshape(
            rows, cols
        )
    if form == "q4_0":
        codes, scales = quantize_q4_0(weight)
        centred = codes.reshape(rows, -1, BLOCK).astype(np.float32) - 8
        return (centred * scales.astype(np.float32)[..., None]).reshape(rows, cols)
    codes, scales, minima = (part.astype(np.float32) for part in quantize_q4_1(weight))
    blocks = codes.reshape(rows, -1, BLOCK) * scales[..., None] + minima[..., None]
    return blocks.reshape(rows, cols)


def rounded_folder(model: Path, form: str, work: Path) -> Path:
    """Write the model with every matrix as its codes say it, in float32."""
    out = work / form
    shutil.copytree(model, out, dirs_exist_ok=True)
    for file in out.glob("*.safetensors"):
        weights = {name: w.astype(np.float32) for name, w in load_file(file).items()}
        fits = {name for name, w in weights.items() if w.ndim == 2 and w.shape[1] % BLOCK == 0}
        weights |= {name: decoded(weights[name], form) for name in fits}
        save_file(weights, file, {"format": "pt"})
    return out


def losses(model: Path, weights: str, rows: list[list[int]]) -> np.ndarray:
    llm = LLM(model, weights=weights, num_threads=1, cache_bytes=2**28)
    return np.concatenate([x.numpy() for x in RuntimeScorer(llm).token_losses(rows)]).astype(float)


def compared(found: np.ndarray, base: np.ndarray) -> dict[str, float]:
    """Return the noise of each token's log-probability, and what the perplexity grows by."""
    apart = found - base
    middle, spread = float(apart.mean()), 1.96 * float(apart.std(ddof=1)) / math.sqrt(len(apart))
    return {
        "rms_nats": float(np.sqrt(np.square(apart).mean())),
        "median_nats": float(np.median(np.abs(apart))),
        "largest_nats": float(np.abs(apart).max()),
        "perplexity_ratio": math.exp(middle),
        "ratio_low": math.exp(middle - spread),
        "ratio_high": math.exp(middle + spread),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="packaged:smollm2")
    parser.add_argument("--data", default="stdlib:heldout")
    parser.add_argument("--num-windows", type=int, default=16)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--work", type=Path, default=Path("runs/rounded_activations"))
    arguments = parser.parse_args()
    model = resolve(arguments.model)
    chosen = windows(arguments.data, load_tokenizer(model), arguments.num_windows, arguments.length)
    rows = chosen.tokens.tolist()
    floats = losses(model, "fp32", rows)
    found = {}
    for form in ("q8", "q4_0", "q4_1"):
        folder = rounded_folder(model, form, arguments.work)
        weights_alone, codes = losses(folder, "fp32", rows), losses(model, form, rows)
        shutil.rmtree(folder)
        found[form] = {
            "perplexity": math.exp(codes.mean()),
            "weights": compared(weights_alone, floats),
            "activations": compared(codes, weights_alone),
            "both": compared(codes, floats),
        }
        print(form, found[form])
    settings = {"model": arguments.model, "data": arguments.data, "tokens": len(floats)}
    content = {**settings, "perplexity_fp32": math.exp(floats.mean()), "forms": found}
    print(store.write("rounded_activations", content))


if __name__ == "__main__":
    main()
