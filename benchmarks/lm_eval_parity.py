"""lm-eval through the runtime against lm-eval through transformers: scores, likelihoods, time.

Multiple choice over local JSONL rows of `query`, `choices` and `gold`, both models in float32 and
in this process. lm-eval is the extra `eval`.

Usage: python benchmarks/lm_eval_parity.py --tasks arc_easy.jsonl [--items 200]
"""

import argparse
import hashlib
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import store
import torch
import yaml

from treadle.model.load import resolve

METRICS = ("acc", "acc_norm")


def evaluate(model: Any, task: dict[str, Any]) -> dict[str, Any]:
    import lm_eval

    wall, cpu = time.perf_counter(), time.process_time()
    found = lm_eval.simple_evaluate(model=model, tasks=[task], log_samples=True, bootstrap_iters=0)
    scores = found["results"][task["task"]]
    samples = sorted(found["samples"][task["task"]], key=lambda sample: sample["doc_id"])
    return {
        "seconds": time.perf_counter() - wall,
        "cpu_seconds": time.process_time() - cpu,
        "scores": {name: scores[f"{name},none"] for name in METRICS},
        "likelihoods": [float(pair[0]) for s in samples for pair in s["filtered_resps"]],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", type=Path, required=True)
    parser.add_argument("--items", type=int, default=200)
    parser.add_argument("--model", default="packaged:smollm2")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    os.environ |= {"HF_DATASETS_OFFLINE": "1"}
    from lm_eval.models.huggingface import HFLM

    from treadle.app.lm_eval import TreadleLM

    torch.set_num_threads(arguments.threads)
    folder = resolve(arguments.model)
    with tempfile.TemporaryDirectory() as work:
        rows = Path(work) / "rows.jsonl"
        lines = arguments.tasks.read_text().splitlines()[: arguments.items]
        rows.write_text("\n".join(lines) + "\n")
        task = {
            "task": arguments.tasks.stem,
            "dataset_path": "json",
            "dataset_kwargs": {
                "data_files": {"test": str(rows)},
                "cache_dir": str(Path(work) / "cache"),
            },
            "output_type": "multiple_choice",
            "test_split": "test",
            "doc_to_text": "{{query}}\nAnswer:",
            "doc_to_target": "gold",
            "doc_to_choice": "{{choices}}",
            "metric_list": [
                {"metric": name, "aggregation": "mean", "higher_is_better": True}
                for name in METRICS
            ],
        }
        models = {
            "transformers": lambda: HFLM(
                pretrained=str(folder), dtype="float32", device="cpu", batch_size=8
            ),
            "treadle fp32": lambda: TreadleLM(str(folder), num_threads=arguments.threads),
            "treadle q8": lambda: TreadleLM(
                str(folder), weights="q8", num_threads=arguments.threads
            ),
        }
        found = {name: evaluate(make(), task) for name, make in models.items()}
    expected = np.array(found["transformers"].pop("likelihoods"))
    for name, row in found.items():
        if "likelihoods" in row:
            apart = np.abs(np.array(row.pop("likelihoods")) - expected)
            row["largest_difference_nats"] = float(apart.max())
        print(name, yaml.safe_dump(row, default_flow_style=True, width=200).strip())
    content = {
        "items": len(lines),
        "tasks_sha256": hashlib.sha256(arguments.tasks.read_bytes()).hexdigest(),
        "rows": found,
    }
    print(store.write("lm_eval_parity", content))


if __name__ == "__main__":
    main()
