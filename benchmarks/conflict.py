"""Which layers to keep apart, and how much of each: conflict against chance and its reverse.

Experts of one base become bundles (treadle merge conflict) whose layers are chosen by highest
conflict, by lowest, or drawn (a control, several draws), at the same number of layers. Each skill's
questions are answered by its expert, so that only what is kept is measured, and not the router: the
score is the mean probability of the right answer over unseen questions. Beside it: sparse densities
with all layers kept, dense merges of the same models, each expert alone, prompts of no kind under
three policies, and (--speed) tokens a second of a mixed batch over one dense model's.

Usage: python benchmarks/conflict.py --base BASE --experts A B C D --skills arithmetic lookup json
       facts --work FOLDER [--fractions 0 0.2 ...] [--draws 5] [--items 64] [--speed]
"""

import argparse
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import store

from treadle.combine.merge import merge, merge_conflict
from treadle.combine.merge.expert_names import expert_names
from treadle.combine.merge.glue.items import Item, encoded, read_items
from treadle.core.result import read_result
from treadle.runtime import LLM, SamplingParams
from treadle.runtime.scoring import RuntimeScorer

DENSITIES = (1.0, 0.5, 0.2, 0.1, 0.05)
CACHE = 64 << 20


def probabilities(llm: LLM, items: list[Item], adapter: str | None) -> np.ndarray:
    """Probability of the right answer of each item."""
    rows = encoded(llm.get_tokenizer(), items, None)
    losses = RuntimeScorer(llm, adapter).token_losses([row.tokens for row in rows])
    pairs = zip(losses, rows, strict=True)
    return np.exp([-float(one[row.first - 1 :].double().sum()) for one, row in pairs])


class Question:
    """Unseen questions of every skill, and whose they are."""

    def __init__(self, skills: list[str], experts: list[str], count: int) -> None:
        self.items = [one.items[:count] for one in read_items(skills, None, 0, count).test]
        self.dev = [one.items for one in read_items(skills, None, 0, count).dev]
        self.experts = experts

    def score(self, folder: Path, adapter: Callable[[int], str | None]) -> list[float]:
        """Return the mean probability of the right answer, skill by skill."""
        llm = LLM(folder, cache_bytes=CACHE)
        return [
            float(probabilities(llm, items, adapter(place)).mean())
            for place, items in enumerate(self.items)
        ]

    def by_expert(self, folder: Path) -> list[float]:
        """Return the same, each skill by its expert."""
        return self.score(folder, lambda place: self.experts[place])


def milliseconds(folder: Path, adapter: str | None) -> float:
    """CPU milliseconds of a token of one request."""
    llm = LLM(folder, cache_bytes=CACHE, num_threads=1)
    params = SamplingParams(max_tokens=48, temperature=0, ignore_eos=True)
    found = []
    for _ in range(4):
        begun = time.process_time()
        llm.generate([[5] * 8], params, adapter=adapter)
        found.append((time.process_time() - begun) / 48 * 1e3)
    return float(np.median(found[1:]))


def layers(arguments: argparse.Namespace, asked: Question) -> list[dict[str, object]]:
    """Scores by number of layers kept whole, for each order."""
    rows = []
    for fraction in arguments.fractions:
        ends = fraction in (0.0, 1.0)
        orders = [("conflict", 0)] if ends else [("conflict", 0), ("lowest", 0)]
        orders += [] if ends else [("random", seed) for seed in range(arguments.draws)]
        for order, seed in orders:
            out = built(arguments, route_fraction=fraction, order=order, seed=seed, density=1.0)
            scores = asked.by_expert(out)
            sizes = read_result(out).bytes
            rows.append(
                {
                    "order": order,
                    "seed": seed,
                    "layers": read_result(out).measurement("routed_layers").value,
                    "bytes": sizes["output"],
                    "score": float(np.mean(scores)),
                    "scores": scores,
                }
            )
            print(f"{order:9} {seed} {fraction:.2f} {np.mean(scores):.3f} {sizes['output']:,}")
    return rows


def built(arguments: argparse.Namespace, **settings: object) -> Path:
    out = arguments.work / "bundle"
    merge_conflict(list(arguments.experts), out, base=arguments.base, overwrite=True, **settings)
    return out


def densities(arguments: argparse.Namespace, asked: Question) -> list[dict[str, object]]:
    """Scores by density, all layers kept."""
    rows = []
    for keep in ("magnitude", "random"):
        for density in DENSITIES if keep == "magnitude" else DENSITIES[2:4]:
            out = built(arguments, route_fraction=1.0, density=density, keep=keep)
            score = float(np.mean(asked.by_expert(out)))
            size = read_result(out).bytes["output"]
            speed = milliseconds(out, asked.experts[0])
            row = {"keep": keep, "density": density, "score": score, "bytes": size}
            rows.append({**row, "ms_token": speed})
            print(f"{keep} {density} {score:.3f} {size:,} {speed:.2f} ms a token")
    out = built(arguments, route_fraction=1.0, density=1.0, among="blocks")
    score = float(np.mean(asked.by_expert(out)))
    rows.append({"keep": "blocks", "score": score, "bytes": read_result(out).bytes["output"]})
    print(f"whole blocks {score:.3f}")
    return rows


def merges(arguments: argparse.Namespace, asked: Question) -> list[dict[str, object]]:
    """Scores of dense merges of the same models, and of each model for its own skill."""
    methods: list[tuple[str, dict[str, object]]] = [
        ("linear", {}),
        ("task_arithmetic", {"weight": 0.3}),
        ("ties", {"density": 0.2}),
        ("dare_ties", {"density": 0.2}),
        ("model_stock", {}),
        ("wudi", {}),
    ]
    rows = []
    for name, settings in methods:
        base = None if name == "linear" else arguments.base
        out = arguments.work / "merged"
        merge(list(arguments.experts), out, {"method": name, **settings}, base=base, overwrite=True)
        score = float(np.mean(asked.score(out, lambda _: None)))
        size = read_result(out).bytes["output"]
        rows.append({"method": name, "score": score, "bytes": size})
        print(f"{name} {score:.3f} {size:,}")
    alone = []
    for place, model in enumerate(arguments.experts):
        llm = LLM(model, cache_bytes=CACHE)
        alone.append(float(probabilities(llm, asked.items[place], None).mean()))
    size = len(alone) * size
    rows.append({"method": "one expert each", "score": float(np.mean(alone)), "bytes": size})
    speed = milliseconds(arguments.experts[0], None)
    print(f"one expert each {np.mean(alone):.3f} {size:,} {speed:.2f} ms a token")
    return [*rows, {"method": "one model", "ms_token": speed}]


def strangers(arguments: argparse.Namespace, asked: Question) -> dict[str, float]:
    """One skill's questions in another's form: by the router's policy, top-1, and uniform."""
    out = built(
        arguments,
        route_fraction=1.0,
        density=1.0,
        data=arguments.skills,
        num_items=arguments.items,
    )
    llm = LLM(out, cache_bytes=CACHE)
    pairs = [(a, b) for a in range(len(asked.items)) for b in range(len(asked.items)) if a != b]
    mixed = [
        (own, Item(f"{other.prompt}{other.answers[0]}\n{item.prompt}", item.answers))
        for own, form in pairs
        for item, other in zip(asked.items[own][:8], asked.dev[form], strict=False)
    ]
    items = [item for _, item in mixed]
    shares = llm.router.shares([item.prompt for item in items])
    likeliest = llm.router.probabilities([item.prompt for item in items]).argmax(axis=1)
    uniform = np.full(len(asked.experts), 1 / len(asked.experts), np.float32)
    policies = {
        "policy": list(shares),
        "top1": [np.eye(len(asked.experts), dtype=np.float32)[one] for one in likeliest],
        "uniform": [uniform] * len(items),
        "own expert": [np.eye(len(asked.experts), dtype=np.float32)[own] for own, _ in mixed],
    }
    found = {}
    for name, given in policies.items():
        values = [
            probabilities(llm, [item], said(asked.experts, row))
            for item, row in zip(items, given, strict=True)
        ]
        found[name] = float(np.mean(values))
    found["held for strangers"] = float(np.mean(llm.router.strangers([i.prompt for i in items])))
    print(found)
    return found


def said(experts: list[str], shares: np.ndarray) -> str:
    """Return a mixture as requests ask for it."""
    return ",".join(f"{name}={share:g}" for name, share in zip(experts, shares, strict=True))


def speed(arguments: argparse.Namespace, asked: Question) -> dict[str, object]:
    """Tokens a second of eight requests over all experts, over those of the dense model alone."""
    out = built(arguments, route_fraction=0.3, density=0.1)
    llms = [LLM(folder, weights="fp32", num_threads=1) for folder in (out, out / "dense")]
    names = [asked.experts[place % len(asked.experts)] for place in range(8)]
    rng = np.random.default_rng(0)

    def spent(llm: LLM, adapter: list[str] | None, length: int = 16, count: int = 32) -> float:
        prompts = [rng.integers(3, 200, length).tolist() for _ in range(8)]
        params = SamplingParams(max_tokens=count, temperature=0, ignore_eos=True)
        begun = time.process_time()
        llm.generate(prompts, params, adapter=adapter)
        return time.process_time() - begun

    def ratio(adapter: list[str], *sizes: int) -> float:
        pairs = [(spent(llms[1], None, *sizes), spent(llms[0], adapter, *sizes)) for _ in range(4)]
        return float(np.median([dense / own for dense, own in pairs[1:]]))

    rounds = [(spent(llms[0], names), spent(llms[1], None)) for _ in range(7)][1:]
    ratios = [dense / mixed for mixed, dense in rounds]
    found = {
        "tokens_second_dense": float(256 / np.median([dense for _, dense in rounds])),
        "tokens_second_mixed": float(256 / np.median([mixed for mixed, _ in rounds])),
        "ratio_of_one_expert": ratio([names[0]] * 8),
        "ratio_of_reading": ratio(names, 256, 1),
        "ratio_quartiles": [float(one) for one in np.percentile(ratios, [25, 50, 75])],
    }
    print(found)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", required=True)
    parser.add_argument("--experts", nargs="+", required=True)
    parser.add_argument("--skills", nargs="+", required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--fractions", nargs="+", type=float, default=[0, 0.2, 0.4, 0.6, 0.8, 1])
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--items", type=int, default=64)
    parser.add_argument("--only", nargs="+", default=["layers", "densities", "merges", "strangers"])
    parser.add_argument("--speed", action="store_true")
    parser.add_argument("--name", default="conflict")
    arguments = parser.parse_args()
    arguments.skills = [f"skills:{one}" for one in arguments.skills]
    shutil.rmtree(arguments.work, ignore_errors=True)
    arguments.work.mkdir(parents=True)
    asked = Question(arguments.skills, expert_names(arguments.experts), arguments.items)
    parts = {"layers": layers, "densities": densities, "merges": merges, "strangers": strangers}
    found: dict[str, object] = {
        name: part(arguments, asked) for name, part in parts.items() if name in arguments.only
    }
    if "layers" in arguments.only:
        result = read_result(built(arguments, route_fraction=0.0))
        (table,) = [one for one in result.tables if one.title == "Conflict by layer"]
        found["conflict"] = {str(row[0].value): row[1].value for row in table.rows}
    if arguments.speed:
        found["speed"] = speed(arguments, asked)
    store.write(arguments.name, found)


if __name__ == "__main__":
    main()
