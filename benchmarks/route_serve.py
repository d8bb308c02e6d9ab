"""Routers end to end: the small zoo behind `treadle serve --router`, asked by OpenAI's own client.

1. `treadle route prepare` asks every model of the zoo the questions of four skills, of which two
   have one form. What it answered is kept in OUT/records.
2. One router of each method learns from the training questions, and all of them are served beside
   the models by one server. The official client asks every test question of every router, in
   another order for each, and what comes back is compared to the letter.
3. A small model of one decoder block and a large one of three are taught all four skills (about
   four minutes of processor time, once), and a cascade of them is calibrated and served likewise.

Scores are shares of right answers with 95 % intervals, bootstrapped over questions and paired where
two are compared. Milliseconds are the server's own (treadle:routing_seconds).

Usage: python benchmarks/route_serve.py ZOO OUT [--num-questions 200]
"""

import argparse
import json
import random
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import openai
import store

from treadle import route, tune
from treadle.combine.route import route_evaluate, route_prepare
from treadle.core.intervals import bootstrap_mean
from treadle.core.skills import parse_skill, skill_items
from treadle.learn.tune import fresh

SKILLS = ("arithmetic", "lookup", "json", "facts")
MODELS = ("llama-base", *(f"{kind}-{skill}" for kind in ("llama", "qwen2") for skill in SKILLS))
METHODS: dict[str, dict[str, Any]] = {
    "random": {},
    "best_single": {},
    "task_prior": {},
    "knn": {"k": 20},
    "clusters": {},
    "ridge": {},
    "mlp": {},
    "routerdc": {},
}
ASKING = {"samples": 1, "temperature": 0.0, "max_tokens": 48}
PRICES = {"small": {"input": 1, "output": 1}, "large": {"input": 3, "output": 3}}
"""By decoder blocks, of which one has one and the other three."""
STARTUP_SECONDS = 120


class Asked(NamedTuple):
    """A test question."""

    id: str
    task: str
    question: str
    answer: str
    scores: dict[str, float]


@contextmanager
def serving(models: Sequence[str], routers: Sequence[str], port: int) -> Iterator[str]:
    """Run `treadle serve` and yield its address."""
    main = "import sys; from treadle.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", main, "serve", *models, "--port", str(port)]
    for router in routers:
        command += ["--router", router]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    address = f"http://127.0.0.1:{port}"
    try:
        wait_for(process, address)
        yield address
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)


def wait_for(process: subprocess.Popen, address: str) -> None:
    end = time.monotonic() + STARTUP_SECONDS
    while time.monotonic() < end and process.poll() is None:
        try:
            urllib.request.urlopen(f"{address}/health", timeout=5).close()
            return
        except OSError:
            time.sleep(0.1)
    raise SystemExit(f"The server did not start: {process.stderr.read().decode()[-500:]}")


def metric(address: str, name: str, **labels: str) -> float:
    """Return the sum of a metric's values with these labels."""
    text = urllib.request.urlopen(f"{address}/metrics", timeout=30).read().decode()
    wanted = [f'{key}="{value}"' for key, value in labels.items()]
    lines = [line for line in text.splitlines() if line.startswith(f"{name}{{")]
    return sum(float(x.split()[-1]) for x in lines if all(label in x for label in wanted))


def ask(client: openai.OpenAI, name: str, questions: Sequence[Asked], seed: int) -> list[Any]:
    """Return (is right, who answered, headers) of each question, asked in a drawn order."""
    found: list[Any] = [None] * len(questions)
    for place in np.random.default_rng(seed).permutation(len(questions)):
        asked = questions[place]
        raw = client.completions.with_raw_response.create(
            model=name, prompt=asked.question, max_tokens=48, temperature=0, stop=["\n"]
        )
        reply = raw.parse()
        is_right = reply.choices[0].text.split() == asked.answer.split()
        found[place] = (float(is_right), reply.model, raw.headers)
    return found


def answers_of(num_questions: int) -> dict[str, str]:
    """Return the known answer of each question of the skills."""
    found = {}
    for skill in SKILLS:
        for side in ("train", "dev", "test"):
            items = skill_items(parse_skill(f"skills:{skill}/{side}", "test"))[:num_questions]
            found.update({" ".join(item.prompt.split()): item.answer for item in items})
    return found


def read(file: Path, answers: dict[str, str]) -> list[Asked]:
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    return [
        Asked(
            row["id"],
            row["task"],
            row["question"],
            answers[" ".join(row["question"].split())],
            row["scores"],
        )
        for row in rows
    ]


def interval(values: np.ndarray) -> list[float]:
    low, high = bootstrap_mean([float(value) for value in values], 0)
    return [round(float(number), 4) for number in (values.mean(), low, high)]


def prepared(
    pool: list[str], out: Path, num_questions: int, sides: Sequence[str] = ("",), **more: Any
) -> None:
    data = tuple(f"skills:{skill}{side}" for side in sides for skill in SKILLS)
    settings = {**ASKING, **more}
    route_prepare(pool, out, data=data, num_questions=num_questions, overwrite=True, **settings)


def per_task_best(questions: Sequence[Asked], trained: Path) -> dict[str, str]:
    """Return the model of each task that is best on the test itself."""
    best = {}
    for task in SKILLS:
        own = [one.scores for one in questions if one.task == task]
        best[task] = max(own[0], key=lambda name: sum(scores[name] for scores in own))
    return best


def routers(zoo: Path, out: Path, num_questions: int, port: int) -> dict[str, Any]:
    pool = [str(zoo / name) for name in MODELS]
    records = out / "records"
    prepared(pool, records, num_questions)
    questions = read(records / "test.jsonl", answers_of(num_questions))
    offline = {}
    for method, settings in METHODS.items():
        folder = out / "routers" / method
        chosen = {"method": method, **settings}
        dev = records / "dev.jsonl"
        route(records / "train.jsonl", folder, chosen, dev=dev, overwrite=True)
        told = route_evaluate(
            folder, records / "test.jsonl", out / "evaluated" / method, overwrite=True
        )
        offline[method] = {one.name: one.value for one in told.measurements}
    best = per_task_best(questions, records)
    oracle = np.asarray([one.scores[best[one.task]] for one in questions])
    query_oracle = np.asarray([max(one.scores.values()) for one in questions])
    found: dict[str, Any] = {
        "questions": len(questions),
        "task_oracle": interval(oracle),
        "query_oracle": interval(query_oracle),
        "routers": {},
    }
    named = [f"{method}={out / 'routers' / method}" for method in METHODS]
    with (
        serving(pool, named, port) as address,
        openai.OpenAI(base_url=f"{address}/v1", api_key="any", max_retries=0) as client,
    ):
        single = None
        for seed, method in enumerate(METHODS):
            replies = ask(client, method, questions, seed)
            right = np.asarray([one[0] for one in replies])
            if method == "best_single":
                single = right
            same = np.mean(
                [r[0] == q.scores[r[1]] for r, q in zip(replies, questions, strict=True)]
            )
            seconds = metric(address, "treadle:routing_seconds_sum", router=method)
            count = metric(address, "treadle:routing_seconds_count", router=method)
            found["routers"][method] = {
                "score": interval(right),
                "within_task_gain": interval(right - oracle),
                "beyond_best_single": None if single is None else interval(right - single),
                "share_of_task_oracle": round(float(right.mean() / oracle.mean()), 4),
                "by_task": {
                    task: round(
                        float(
                            np.mean(
                                [r for r, q in zip(right, questions, strict=True) if q.task == task]
                            )
                        ),
                        4,
                    )
                    for task in SKILLS
                },
                "same_as_prepared": round(float(same), 4),
                "milliseconds": round(1000 * seconds / count, 3),
                "offline": {
                    name: round(offline[method][name], 4) for name in ("score", "stability")
                },
            }
    return found


def mixed(file: Path, counts: dict[str, int]) -> Path:
    """Write training questions of the skills in a drawn order; of few, again and again."""
    rows = []
    for skill, count in counts.items():
        own = skill_items(parse_skill(f"skills:{skill}/train", "train"))
        rows += (own * 20)[:count]
    random.Random(0).shuffle(rows)
    lines = [json.dumps({"prompt": prompt, "answer": answer}) for prompt, answer in rows]
    file.write_text("".join(f"{line}\n" for line in lines))
    return file


def taught(zoo: Path, out: Path) -> tuple[str, str]:
    """Return the small and the large model, which are made unless they are there."""
    small, large = out / "small", out / "large"
    how = {"learning_rate": 3e-3, "optimizer": "muon"}
    if not small.exists():
        base = out / "small-base"
        fresh(base, architecture="llama", layers=1, steps=160, rows=8, overwrite=True)
        data = mixed(out / "small.jsonl", dict.fromkeys(SKILLS, 1200))
        tune(base, small, "sft", data=data, steps=200, rows=32, **how)
    if not large.exists():
        counts = {"arithmetic": 6000, "lookup": 2500, "json": 2500, "facts": 600}
        data = mixed(out / "large.jsonl", counts)
        tune(zoo / "llama-base", large, "sft", data=data, steps=400, rows=40, **how)
    return str(small), str(large)


def cascade(zoo: Path, out: Path, num_questions: int, port: int) -> dict[str, Any]:
    small, large = taught(zoo, out)
    records, prices = out / "cascade-records", out / "prices.json"
    prices.write_text(json.dumps(PRICES))
    pool = [f"small={small}", f"large={large}"]
    # The models were taught training questions, on which they are better and surer than on others.
    prepared(pool, records, num_questions, ("/dev", "/test"), prices=prices)
    questions = read(records / "test.jsonl", answers_of(num_questions))
    bounds = {
        "loss_05": {"max_loss": 0.05},
        "loss_10": {"max_loss": 0.1},
        "cost_80": {"max_cost": 0.8},
    }
    found: dict[str, Any] = {"questions": len(questions), "cascades": {}}
    for name, bound in bounds.items():
        folder = out / "cascades" / name
        chosen = {"method": "cascade", **bound}
        made = route(records / "dev.jsonl", folder, chosen, dev_fraction=0.0, overwrite=True)
        found["cascades"][name] = {"notes": [one for one in made.notes if "Calibrated" in one]}
    named = [f"{name}={out / 'cascades' / name}" for name in bounds]
    with (
        serving(pool, named, port) as address,
        openai.OpenAI(base_url=f"{address}/v1", api_key="any", max_retries=0) as client,
    ):
        alone = {}
        for model in ("small", "large"):
            right, cost = charged(address, client, model, questions)
            alone[model] = (right, cost)
            found[model] = {"score": interval(right), "cost": round(cost, 2)}
        for name in bounds:
            right, cost = charged(address, client, name, questions)
            shown = metric(address, "treadle:requests_routed_total", router=name)
            kept = metric(address, "treadle:requests_routed_total", router=name, model_name="small")
            found["cascades"][name] |= {
                "score": interval(right),
                "cost": round(cost, 2),
                "cost_of_large": round(cost / alone["large"][1], 3),
                "loss": interval(alone["large"][0] - right),
                "answered_by_small": round(kept / shown, 3),
            }
    return found


def charged(
    address: str, client: openai.OpenAI, name: str, questions: Sequence[Asked]
) -> tuple[np.ndarray, float]:
    """Return what was right, and the mean price of a question by the server's counts of tokens."""
    before = spent(address)
    replies = ask(client, name, questions, 0)
    right = np.asarray([one[0] for one in replies])
    return right, (spent(address) - before) / len(questions)


def spent(address: str) -> float:
    total = 0.0
    for model, price in PRICES.items():
        for kind, name in (("input", "prompt"), ("output", "generation")):
            total += price[kind] * metric(address, f"vllm:{name}_tokens_total", model_name=model)
    return total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("zoo", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--num-questions", type=int, default=200)
    parser.add_argument("--port", type=int, default=18731)
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    places = (asked.zoo, asked.out, asked.num_questions, asked.port)
    found = {"routing": routers(*places), "cascade": cascade(*places)}
    settings = {"num_questions": asked.num_questions, **ASKING}
    print(store.write("route_serve", {"settings": settings, **found}))


if __name__ == "__main__":
    main()
