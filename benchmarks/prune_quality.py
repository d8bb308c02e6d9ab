"""Every metric at 50 % rows and at 2:4 on a real model, with paired intervals.

Calibrate on one text, report on another; each model is removed once it was measured.

Usage: python benchmarks/prune_quality.py --calibration VALID.txt --report TEST.txt [--work DIR]
"""

import argparse
import hashlib
import json
import math
from pathlib import Path

import store

from treadle import evaluate, prune
from treadle.core.checkpoint import CheckpointReader
from treadle.core.result import Result, read_result
from treadle.judge.evaluate import TASKS
from treadle.model.load import load_tokenizer, resolve
from treadle.model.text import windows
from treadle.shrink.prune import METRICS


def naive_perplexity(model: Path, text: str, num_windows: int) -> float:
    """Return the perplexity by the plain transformers loop over the same windows."""
    import torch
    from transformers import AutoModelForCausalLM

    tokens = windows(text, load_tokenizer(model), num_windows, 512).tokens
    loaded = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
    with torch.no_grad():
        losses = [loaded(input_ids=row[None], labels=row[None]).loss.double() for row in tokens]
    return math.exp(float(sum(losses)) / len(losses))


def scored_folder(arguments: argparse.Namespace, run: dict) -> Path:
    name = "-".join(str(value).replace(":", "of") for value in run.values())
    return arguments.work / f"{name}.ppl"


def measure(arguments: argparse.Namespace, run: dict, task, dense: Path) -> tuple[Result, Result]:
    scored = scored_folder(arguments, run)
    out = scored.with_suffix("")
    if not (scored / "result.json").is_file():
        options = dict(run)
        metric = METRICS.resolve(options.pop("method"))
        needs_text = bool(metric.needs) or "update" in run or "allocation" in run
        text = {"text": str(arguments.calibration)} if needs_text else {}
        prune(arguments.model, out, metric, overwrite=True, **options, **text)
        evaluate(out, scored, task, data=str(arguments.report), baseline=dense, overwrite=True)
        for file in out.glob("*.safetensors"):
            file.unlink()
    return read_result(out), read_result(scored)


def row(run: dict, pruned: Result, scored: Result) -> dict:
    perplexity, ratio = scored.measurement("perplexity"), scored.measurement("perplexity_ratio")
    return {
        **run,
        "perplexity": [perplexity.value, perplexity.low, perplexity.high],
        "ratio_to_dense": [ratio.value, ratio.low, ratio.high],
        "sparsity": pruned.measurement("sparsity").value,
        "seconds": pruned.seconds,
        "cpu_seconds": pruned.cpu_seconds,
        "peak_memory_bytes": pruned.peak_memory_bytes,
        "window_nll": scored.samples["nll"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="packaged:smollm2")
    parser.add_argument("--calibration", type=Path, required=True)
    parser.add_argument("--report", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("runs/prune_quality"))
    parser.add_argument("--num-windows", type=int, default=64)
    parser.add_argument("--patterns", nargs="+", default=["rows", "2:4"])
    parser.add_argument("--methods", nargs="+", default=list(METRICS.table))
    parser.add_argument("--stored", action="store_true", help="report finished rows, run nothing")
    arguments = parser.parse_args()
    task = TASKS.resolve({"method": "perplexity", "num_windows": arguments.num_windows})
    dense = arguments.work / "dense.ppl"
    if not (dense / "result.json").is_file():
        evaluate(arguments.model, dense, task, data=str(arguments.report))
    base = read_result(dense)
    ours = base.measurement("perplexity").value
    kept = arguments.work / "naive.json"
    if not kept.is_file():
        folder, report = resolve(arguments.model), str(arguments.report)
        kept.write_text(json.dumps(naive_perplexity(folder, report, arguments.num_windows)))
    naive = json.loads(kept.read_text())
    print(
        f"dense {ours:.4f}; naive transformers loop {naive:.4f}; relative "
        f"{abs(ours / naive - 1):.1e}"
    )
    rows = []
    runs = [{"method": m, "pattern": p} for p in arguments.patterns for m in arguments.methods]
    for run in runs:
        if arguments.stored and not (scored_folder(arguments, run) / "result.json").is_file():
            print(f"{run}  not measured")
            continue
        rows.append(row(run, *measure(arguments, run, task, dense)))
        low, high = rows[-1]["ratio_to_dense"][1:]
        print(f"{run}  {rows[-1]['perplexity'][0]:.2f}  {low:.3f}..{high:.3f} x dense", flush=True)
    with CheckpointReader(resolve(arguments.model)) as reader:
        num_bytes = reader.num_bytes
    content = {
        "model": arguments.model,
        "model_bytes": num_bytes,
        "data_sha256": {
            path.name: hashlib.sha256(path.read_bytes()).hexdigest()
            for path in (arguments.calibration, arguments.report)
        },
        "protocol": base.protocol,
        "dense": {"perplexity": ours, "naive_loop": naive, "window_nll": base.samples["nll"]},
        "rows": rows,
    }
    print(store.write("prune_quality", content))


if __name__ == "__main__":
    main()
