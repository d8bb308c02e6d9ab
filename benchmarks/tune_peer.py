"""SFT and DPO against trl: once with every setting equal, once as users of each would run it.

Rows are the first questions of GSM8K with their rationales; for DPO the rejected answer is the
rationale of another question. "equal" gives both sides the same batches in the same order (ours,
written out for trl, which is told not to shuffle), rates, optimizer and clipping, in float32, and
compares the losses step by step: with equal numbers, the costs are of equal work. "usual" leaves to
each side all that a user need not say: trl pads a batch to its longest row, computes blocks again
in the backward pass (gradient checkpointing), computes in bfloat16 on float32 weights and runs a
reference model beside the one that learns; ours packs rows, splits a step into parts and asks the
reference once, before the first step. "half" is the same, but ours computes in bfloat16 as well.

Each side runs in its own process, with its imports, loading, tokenisation, training and writing;
CPU time and peak memory are the kernel's accounts of that process, and of training alone what
either side's own clock says. The floor is the forward pass over the same tokens, once.

Usage: python benchmarks/tune_peer.py --peer /opt/peers/trl/bin/python --data gsm8k.jsonl
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import store

from treadle.core.result import read_result
from treadle.core.seed import numpy_stream
from treadle.model.load import resolve

PEER = """
import json, sys, time
import torch
torch.set_num_threads(int(sys.argv[4]))
import trl
from datasets import Dataset
method, data, out = sys.argv[1:4]
given = json.loads(sys.argv[5])
rows = [json.loads(line) for line in open(data)]
kind, settings = (trl.SFTTrainer, trl.SFTConfig) if method == "sft" else (
    trl.DPOTrainer, trl.DPOConfig)
losses = []
class Told(kind):
    def training_step(self, *values, **options):
        loss = super().training_step(*values, **options)
        losses.append(float(loss))
        return loss
args = settings(output_dir=out, report_to="none", use_cpu=True, disable_tqdm=True, **given)
trainer = Told(model=sys.argv[6], args=args, train_dataset=Dataset.from_list(rows))
wall, cpu = time.perf_counter(), time.process_time()
trainer.train()
wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
trainer.save_model(out)
collated = trainer.data_collator([trainer.train_dataset[n] for n in range(4)])
said = {"losses": losses, "train_seconds": wall, "train_cpu_seconds": cpu,
        "rows": len(trainer.train_dataset), "padded": list(collated["input_ids"].shape),
        "first_row": trainer.train_dataset[0], "settings": args.to_dict(),
        "dtype": str(next(trainer.model.parameters()).dtype)}
json.dump(said, open(out + ".json", "w"), default=str)
"""
FLOOR = """
import json, sys
import torch
torch.set_num_threads(int(sys.argv[4]))
from transformers import AutoModelForCausalLM, AutoTokenizer
rows = [json.loads(line) for line in open(sys.argv[2])]
tokenizer = AutoTokenizer.from_pretrained(sys.argv[6])
model = AutoModelForCausalLM.from_pretrained(sys.argv[6], dtype=torch.float32).eval()
sides = ["completion"] if sys.argv[1] == "sft" else ["chosen", "rejected"]
with torch.no_grad():
    for row in rows:
        for side in sides:
            ids = tokenizer(row["prompt"] + row[side], return_tensors="pt").input_ids
            model.model(input_ids=ids, use_cache=False)
"""
RATES = {"sft": 2e-5, "dpo": 1e-6}
"""trl's defaults, for both sides where settings are equal."""
SAME = {
    "per_device_train_batch_size": 4,
    "train_sampling_strategy": "sequential",
    "lr_scheduler_type": "constant",
    "optim": "adamw_torch",
    "adam_beta2": 0.999,
    "weight_decay": 0.0,
    "max_grad_norm": 1.0,
    "bf16": False,
    "gradient_checkpointing": False,
    "max_length": None,
    "save_strategy": "no",
    "logging_steps": 1,
}
USUAL = {"per_device_train_batch_size": 4, "logging_steps": 1}
"""What a user has to say to see as many rows as often: the rest is left to trl."""
TOLERANCE = 1e-4


class Case(NamedTuple):
    """One method under one regime: the data, and what is said to each side."""

    method: str
    regime: str
    data: Path
    steps: int
    rows: int
    seed: int

    @property
    def peer_settings(self) -> dict[str, Any]:
        """What trl is told; the rest are its defaults."""
        given = {**(SAME if self.regime == "equal" else USUAL), "max_steps": self.steps}
        given["per_device_train_batch_size"] = self.rows
        if self.regime == "equal":
            given["learning_rate"] = RATES[self.method]
        return given

    @property
    def our_flags(self) -> list[str]:
        """What treadle is told; the rest are its defaults."""
        flags = ["--steps", str(self.steps), "--rows", str(self.rows), "--seed", str(self.seed)]
        if self.regime == "half":
            flags += ["--compute", "bfloat16"]
        if self.method == "dpo":
            flags += ["--heldout-fraction", "0"]
        if self.regime == "equal":
            rate = str(RATES[self.method])
            flags += ["--learning-rate", rate, "--schedule", "constant", "--warmup-fraction", "0"]
        return flags


def write_rows(
    source: Path, target: Path, method: str, number: int, longest: int, seed: int
) -> None:
    """Write the first rows of at most so many characters, in the order in which ours are seen."""
    items = [json.loads(line) for line in source.read_text().splitlines()]
    short = [one for one in items if len(one["question"]) + len(one["answer"]) <= longest]
    chosen = short[:number]
    if len(chosen) < number:
        sys.exit(f"{source} has {len(chosen)} rows of at most {longest} characters, not {number}.")
    rows = []
    for place, item in enumerate(chosen):
        row = {"prompt": f"Question: {item['question']}\nAnswer:"}
        if method == "sft":
            row["completion"] = " " + item["answer"]
        else:
            row["chosen"] = " " + item["answer"]
            row["rejected"] = " " + chosen[(place + 1) % number]["answer"]
        rows.append(row)
    lines = [json.dumps(row) for row in rows]
    target.with_suffix(".ours.jsonl").write_text("\n".join(lines) + "\n")
    order = numpy_stream(seed, "epoch 0").permutation(number)
    target.write_text("\n".join(lines[place] for place in order) + "\n")


def run(command: list[str], threads: int, own: Path | None = None) -> dict[str, float]:
    """Run a command in its own process and return what the kernel says that it cost.

    A peer runs in a folder of its `own`, where no module of ours is taken for one of its packages.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}
    environment |= {"TOKENIZERS_PARALLELISM": "false", "HF_DATASETS_OFFLINE": "1"}
    started = time.perf_counter()
    with tempfile.TemporaryFile() as said:
        if own is not None:
            environment.pop("PYTHONPATH", None)
        process = subprocess.Popen(command, env=environment, stdout=said, stderr=said, cwd=own)
        _, status, usage = os.wait4(process.pid, 0)
        if status:
            said.seek(0)
            sys.exit(f"{' '.join(command[:3])} failed:\n{said.read().decode()[-3000:]}")
    return {
        "seconds": time.perf_counter() - started,
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
        "peak_memory_bytes": usage.ru_maxrss * 1024,
    }


def run_peer(case: Case, python: str, model: Path, threads: int, work: Path) -> dict[str, Any]:
    """Run trl; return its cost, its losses and what it did."""
    out = work / f"{case.method}-{case.regime}-peer"
    settings = json.dumps(case.peer_settings)
    arguments = [case.method, str(case.data), str(out), str(threads), settings, str(model)]
    cost = run([python, "-c", PEER, *arguments], threads, work)
    return {**cost, **json.loads(Path(f"{out}.json").read_text())}


def run_ours(case: Case, model: Path, threads: int, work: Path) -> dict[str, Any]:
    """Run treadle; return its cost and its losses."""
    out, data = work / f"{case.method}-{case.regime}-ours", case.data.with_suffix(".ours.jsonl")
    command = [sys.executable, "-m", "treadle", "tune", case.method, str(model), str(out)]
    cost = run([*command, "--data", str(data), "--overwrite", *case.our_flags], threads)
    result = read_result(out)
    curve = next(figure for figure in result.figures if figure.title == "Training loss")
    return {**cost, "losses": list(curve.series[0].y), "settings": result.settings}


def run_floor(case: Case, model: Path, threads: int) -> dict[str, Any]:
    arguments = [case.method, str(case.data), "", str(threads), "", str(model)]
    return run([sys.executable, "-c", FLOOR, *arguments], threads)


def distance(left: list[float], right: list[float]) -> float:
    """Return the largest relative difference of two curves, step by step."""
    return float(max(abs(np.subtract(left, right)) / np.abs(right)))


def summary(case: Case, costs: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Return the costs without what is said once, and the ratios of the pairs."""
    kept = ("seconds", "cpu_seconds", "peak_memory_bytes", "train_seconds", "train_cpu_seconds")
    found: dict[str, Any] = {
        "costs": {
            name: [{key: one[key] for key in kept if key in one} for one in runs]
            for name, runs in costs.items()
        },
        "losses": {name: runs[-1]["losses"] for name, runs in costs.items() if name != "floor"},
        "peer_settings": case.peer_settings,
        "our_flags": case.our_flags,
    }
    if {"ours", "peer"} <= costs.keys():
        pairs = list(zip(costs["peer"], costs["ours"], strict=True))
        speeds = [peer["cpu_seconds"] / ours["cpu_seconds"] for peer, ours in pairs]
        found["cpu_ratio_to_peer"] = statistics.median(speeds)
        found["cpu_ratio_quartiles"] = np.percentile(speeds, [25, 75]).tolist()
        found["memory_ratio"] = statistics.median(
            ours["peak_memory_bytes"] / peer["peak_memory_bytes"] for peer, ours in pairs
        )
        if case.regime == "equal":
            found["loss_distance"] = distance(*found["losses"].values())
            found["losses_are_equal"] = found["loss_distance"] <= TOLERANCE
    return found


def compare(case: Case, arguments: argparse.Namespace, model: Path) -> dict[str, Any]:
    """Run the sides in turn, and return their costs, losses and ratios."""
    work, threads = arguments.work, arguments.threads
    sides = {
        "peer": lambda: run_peer(case, arguments.peer, model, threads, work),
        "ours": lambda: run_ours(case, model, threads, work),
        "floor": lambda: run_floor(case, model, threads),
    }
    costs: dict[str, list[dict[str, Any]]] = {name: [] for name in arguments.sides}
    for number in range(arguments.rounds):
        for name in arguments.sides:
            cost = sides[name]()
            costs[name].append(cost)
            print(
                f"{case.method} {case.regime} round {number} {name:5} {cost['seconds']:6.1f} s "
                f"wall {cost['cpu_seconds']:6.1f} s CPU {cost['peak_memory_bytes'] / 1e9:.2f} GB",
                flush=True,
            )
    if "peer" in costs:
        told = {key: value for key, value in costs["peer"][-1].items() if key != "settings"}
        raw = {**told, "given": case.peer_settings, "all_settings": costs["peer"][-1]["settings"]}
        (work / f"trl_{case.method}_{case.regime}.json").write_text(json.dumps(raw, indent=1))
    found = summary(case, costs)
    print({key: value for key, value in found.items() if "ratio" in key or "loss_" in key})
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer", required=True)
    parser.add_argument("--model", default="packaged:smollm2")
    parser.add_argument("--data", type=Path, required=True, help="GSM8K: question, answer")
    parser.add_argument("--work", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--longest", type=int, default=300, help="characters of a row")
    parser.add_argument("--methods", nargs="+", default=["sft", "dpo"], choices=["sft", "dpo"])
    parser.add_argument("--regimes", nargs="+", default=["equal", "usual"])
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--sides", nargs="+", default=["peer", "ours", "floor"])
    arguments = parser.parse_args()
    arguments.work = (arguments.work or Path(tempfile.mkdtemp(prefix="tune_peer_"))).absolute()
    arguments.work.mkdir(parents=True, exist_ok=True)
    model, rows, seed = resolve(arguments.model), arguments.steps * arguments.rows, 0
    content: dict[str, Any] = {"rounds": arguments.rounds, "steps": arguments.steps, "cases": {}}
    for method in arguments.methods:
        data = arguments.work / f"{method}.jsonl"
        write_rows(arguments.data, data, method, rows, arguments.longest, seed)
        for regime in arguments.regimes:
            case = Case(method, regime, data, arguments.steps, arguments.rows, seed)
            content["cases"][f"{method} {regime}"] = compare(case, arguments, model)
    if set(arguments.sides) >= {"peer", "ours"}:
        print(store.write(f"tune_peer_{arguments.threads}t", content))


if __name__ == "__main__":
    main()
