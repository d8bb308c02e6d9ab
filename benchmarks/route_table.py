"""Every way of routing on public tables of scores, beside single models and oracles.

Three tables, each where its files are given: a train and a test file (all questions, and those that
are not in both; each loss of RouterDC off in turn; the best model removed at test); a folder as
RouterDC publishes it (tasks that were trained on, and others); tables of RouterBench, with costs.
Methods without training learn from all training questions, the others hold a tenth out.

Usage: python benchmarks/route_table.py --train FILE --test FILE [--routerdc FOLDER]
       [--routerbench FOLDER] [--seeds 3]
"""

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import store

from treadle.combine.route import METHODS, route, route_evaluate
from treadle.combine.route.maths.descent import TrainedRoute
from treadle.core.result import Result

PLAIN: list[tuple[str, dict[str, Any]]] = [
    ("random", {"method": "random"}),
    ("best_single", {"method": "best_single"}),
    ("task_prior", {"method": "task_prior"}),
    ("knn, k = 10", {"method": "knn", "k": 10}),
    ("knn", {"method": "knn"}),
    ("knn, k = 400", {"method": "knn", "k": 400}),
    ("clusters", {"method": "clusters"}),
    ("clusters, top_k = 3", {"method": "clusters", "top_k": 3}),
    ("ridge", {"method": "ridge"}),
    ("matrix", {"method": "matrix"}),
    ("mlp", {"method": "mlp"}),
    ("routerdc, published", {"method": "routerdc", "variant": "published"}),
    ("routerdc, mended", {"method": "routerdc"}),
]
ABLATED: list[tuple[str, dict[str, Any]]] = [
    (
        f"routerdc, {variant}, no loss of {what}",
        {"method": "routerdc", "variant": variant, key: 0.0},
    )
    for variant in ("published", "mended")
    for what, key in (("queries", "query_weight"), ("models", "model_weight"))
]
MULTIPLE_CHOICE = ["mmlu", "cmmlu", "arc_challenge"]


def made(data: Path, out: Path, method: dict[str, Any], **given: Any) -> float:
    """Make a router, and return the CPU seconds that it took."""
    fraction = 0.1 if issubclass(METHODS[method["method"]], TrainedRoute) else 0.0
    begun = time.process_time()
    route(data, out, method, dev_fraction=fraction, **given)
    return time.process_time() - begun


def spread(results: list[Result], name: str) -> str:
    """Return a measurement's mean over seeds, with its extremes where there are several."""
    values = [one.measurement(name).value for one in results]
    if len(values) == 1:
        return f"{values[0]:.4f}"
    return f"{np.mean(values):.4f} ({min(values):.4f}-{max(values):.4f})"


def interval(result: Result, name: str) -> str:
    """Return a difference with its interval."""
    one = result.measurement(name)
    return f"{one.value:+.4f} ({one.low:+.4f} to {one.high:+.4f})"


def two_files(train: Path, test: Path, seeds: int, folder: Path) -> list[dict[str, str]]:
    """Return a row for every method."""
    rows = []
    for title, method in [*PLAIN, *ABLATED]:
        is_trained = issubclass(METHODS[method["method"]], TrainedRoute)
        found, seconds = [], 0.0
        for seed in range(seeds if is_trained else 1):
            out = folder / f"{title}.{seed}".replace(" ", "")
            seconds = made(train, out, method, seed=seed)
            found.append(route_evaluate(out, test, Path(f"{out}.all")))
        first = folder / f"{title}.0".replace(" ", "")
        best = found[0].measurement("best_single_hindsight").note.partition(",")[0]
        without = route_evaluate(first, test, Path(f"{first}.less"), without=[best])
        rows.append(
            {
                "router": title,
                "all": spread(found, "score"),
                "less best single": interval(found[0], "difference"),
                "unleaked": spread(found, "score_unseen"),
                "less best single there": interval(found[0], "difference_unseen"),
                "without the best model": f"{without.measurement('score').value:.4f}",
                "stable": f"{found[0].measurement('stability').value:.3f}",
                "ms": f"{found[0].measurement('milliseconds_per_query').value:.2f}",
                "CPU s": f"{seconds:.1f}",
            }
        )
        print(rows[-1], flush=True)
    names = ("random", "best_single", "query_oracle")
    for name in names:
        one = found[0]
        rows.append(
            {
                "router": f"{name}, exact",
                "all": f"{one.measurement(name).value:.4f}",
                "unleaked": f"{one.measurement(f'{name}_unseen').value:.4f}",
                "without the best model": f"{without.measurement(name).value:.4f}",
            }
        )
    return rows


def of_tasks(folder: Path, work: Path) -> list[dict[str, str]]:
    """Return a row for every method on RouterDC's files: macro averages, and gains within tasks."""
    rows = []
    for title, method in PLAIN:
        out = work / title.replace(" ", "")
        made(folder, out, method, per_task=1000, binarise=MULTIPLE_CHOICE)
        binarised = [*MULTIPLE_CHOICE, "ceval"]
        one = route_evaluate(out, folder, Path(f"{out}.eval"), binarise=binarised)
        told = {"router": title}
        for key, name in (("_trained_tasks", "trained tasks"), ("_other_tasks", "other tasks")):
            told[name] = f"{one.measurement(f'macro_score{key}').value:.4f}"
            told[f"gain within {name}"] = f"{one.measurement(f'within_task_gain{key}').value:+.4f}"
        told["less best single, all questions"] = interval(one, "difference")
        rows.append(told)
        print(rows[-1], flush=True)
    return rows


def of_costs(folder: Path, work: Path) -> list[dict[str, str]]:
    """Return a row for every method on RouterBench's tables, and for mixtures of single models."""
    rows, single = [], 0.0
    for title, method in PLAIN:
        out = work / title.replace(" ", "")
        made(folder, out, method)
        one = route_evaluate(out, folder, Path(f"{out}.eval"))
        single = one.measurement("aiq_of_single_models").value
        rows.append(
            {
                "router": title,
                "score": f"{one.measurement('score').value:.4f}",
                "less best single": interval(one, "difference"),
                "dollars for 1000": f"{1000 * one.measurement('cost').value:.3f}",
                "AIQ": f"{one.measurement('aiq').value:.4f}",
                "arena": f"{one.measurement('arena').value:.4f}",
            }
        )
        print(rows[-1], flush=True)
    rows.append({"router": "mixtures of single models", "AIQ": f"{single:.4f}"})
    return rows


def printed(title: str, rows: list[dict[str, str]]) -> None:
    """Print rows as a table in Markdown."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    print(f"\n{title}\n\n| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    for row in rows:
        print(f"| {' | '.join(row.get(name, '') for name in columns)} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("train", "test", "routerdc", "routerbench"):
        parser.add_argument(f"--{name}", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    begun, tables = time.process_time(), {}
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        if arguments.train and arguments.test:
            tables["files"] = two_files(
                arguments.train, arguments.test, arguments.seeds, work / "files"
            )
        if arguments.routerdc:
            tables["routerdc"] = of_tasks(arguments.routerdc, work / "routerdc")
        if arguments.routerbench:
            tables["routerbench"] = of_costs(arguments.routerbench, work / "routerbench")
    for title, rows in tables.items():
        printed(title, rows)
    seconds = time.process_time() - begun
    print(f"\n{seconds:.0f} CPU seconds")
    settings = {key: str(value) for key, value in vars(arguments).items()}
    theme = "_".join(["route_table", *(one for one in tables if one != "files")])
    store.write(theme, {"settings": settings, "cpu_seconds": seconds, **tables})


if __name__ == "__main__":
    main()
