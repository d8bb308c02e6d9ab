"""Memory of whole training steps: planned, as traced, with optimizer hooks, and by other planners.

Nothing is trained. Steps are captured under fake tensors; eager PyTorch's peaks are measured on
fake tensors by its own allocator calls (`--eager real` runs them); all other bytes are simulated,
and the simulation of the traced order is compared with the measured peak. One thread.
"""

import argparse
import statistics
import time
from typing import Any

import step_models
import store

from treadle.core.errors import CapacityError
from treadle.core.seed import numpy_stream
from treadle.learn.plan import LAYOUTS, ORDERS
from treadle.learn.plan.fitting import arena_of
from treadle.learn.plan.problem import Problem, build_problem
from treadle.learn.plan.recompute import recompute
from treadle.learn.plan.replay import blocks_of, peak_of
from treadle.model.graph.schema import Graph

GREEDY = ["program", "updates_asap", "least_peak_first", "depth_first", "breadth_first"]
"""The published rules that make an order in one pass."""
BATCHES = {"gpt2_xl": [1, 4]}
NUM_CHUNKS = 8
FRACTIONS = (0.02, 0.1, 0.35)
"""Shares of the arithmetic that may be repeated."""


def timed_order(name: str, problem: Problem, **settings: Any) -> dict[str, Any]:
    method = ORDERS.resolve({"method": name, **settings})
    started = time.process_time()
    found = method.order(problem, numpy_stream(0, "order"))
    seconds = time.process_time() - started
    return {
        "order": found.order,
        "peak_bytes": peak_of(problem, found.order),
        "bound_bytes": found.bound_bytes,
        "cpu_seconds": seconds,
        "notes": found.notes,
    }


def layouts(problem: Problem, order: tuple[int, ...], names: list[str]) -> dict[str, Any]:
    blocks = blocks_of(problem, order)
    rows = {}
    for name in names:
        method = LAYOUTS.resolve(name)
        started = time.process_time()
        placed = method.place(blocks, numpy_stream(0, "layout"))
        arena = arena_of(blocks, placed.offsets)
        rows[name] = {
            "arena_bytes": arena,
            "fragmentation": 1 - peak_of(problem, order) / max(1, arena),
            "cpu_seconds": time.process_time() - started,
            "notes": placed.notes,
        }
    return rows


def whole_graph(problem: Problem, limit_seconds: float) -> dict[str, Any]:
    try:
        row = timed_order(
            "whole_graph_ilp", problem, time_limit_seconds=limit_seconds, max_variables=40_000
        )
    except CapacityError as error:
        return {"refused": str(error)}
    return {key: value for key, value in row.items() if key != "order"}


def measure(name: str, batch: int, eager: str, ilp_seconds: float) -> dict[str, Any]:
    started = time.process_time()
    graph = step_models.capture(name, batch).graph
    capture_seconds = time.process_time() - started
    plain, donating = build_problem(graph, donate=False), build_problem(graph)
    row: dict[str, Any] = {
        "model": name,
        "batch": batch,
        "num_operators": len(graph.operators),
        "persistent_bytes": graph.persistent_bytes,
        "capture_cpu_seconds": capture_seconds,
        "eager": {
            update: step_models.eager(name, batch, update=update, fake=eager == "fake")
            for update in ("after", "in_backward")
        },
        "orders": {},
    }
    for rule in [*GREEDY, "random", "inductor", "roam"]:
        pair = [timed_order(rule, plain), timed_order(rule, donating)]
        row["orders"][rule] = {
            "plain": {key: value for key, value in pair[0].items() if key != "order"},
            "donated": {key: value for key, value in pair[1].items() if key != "order"},
        }
        if rule == "roam":
            row["layouts_plain"] = layouts(plain, pair[0]["order"], ["nested"])
            row["layouts"] = layouts(donating, pair[1]["order"], list(LAYOUTS.table))
        if rule == "least_peak_first":
            row["heuristic_pair"] = layouts(plain, pair[0]["order"], ["long_lived_first"])
    row["recomputed"] = {fraction: repeated(graph, fraction) for fraction in FRACTIONS}
    row["whole_graph_ilp"] = whole_graph(plain, ilp_seconds)
    if name in step_models.CAUSAL:
        row["chunked_loss"] = chunked(name, batch, graph)
    return row


def repeated(graph: Graph, fraction: float) -> dict[str, Any]:
    started = time.process_time()
    found = recompute(graph, fraction)
    row = timed_order("roam", build_problem(found.graph))
    flops = sum(operator.flops for operator in graph.operators)
    return {
        "peak_bytes": row["peak_bytes"],
        "bound_bytes": row["bound_bytes"],
        "num_values": len(found.values),
        "extra_flops_fraction": found.extra_flops / flops,
        "cpu_seconds": time.process_time() - started,
    }


def chunked(name: str, batch: int, whole: Graph) -> dict[str, Any]:
    graph = step_models.capture(name, batch, chunked_loss=NUM_CHUNKS).graph
    found = {"num_chunks": NUM_CHUNKS}
    for key, donate in (("plain", False), ("donated", True)):
        row = timed_order("roam", build_problem(graph, donate=donate))
        found[key] = {k: v for k, v in row.items() if k != "order"}
    flops = [sum(operator.flops for operator in g.operators) for g in (whole, graph)]
    found["flops_ratio"] = flops[1] / flops[0]
    return found


def saved(ours: float, theirs: float) -> float:
    return 1 - ours / theirs


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the means over all graphs, each comparator by its name, dynamic and total bytes."""
    rivals = {
        "eager PyTorch, measured": lambda r: r["eager"]["after"],
        "eager with optimizer hooks, measured": lambda r: r["eager"]["in_backward"],
        "traced order, simulated": lambda r: r["orders"]["program"]["plain"]["peak_bytes"],
        "Inductor's orders": lambda r: r["orders"]["inductor"]["plain"]["peak_bytes"],
        "heuristic pair (least peak first, long-lived first)": lambda r: r["heuristic_pair"][
            "long_lived_first"
        ]["arena_bytes"],
    }
    stages = {
        "order": lambda r: r["orders"]["roam"]["plain"]["peak_bytes"],
        "order and layout": lambda r: r["layouts_plain"]["nested"]["arena_bytes"],
        "order, donation and layout": lambda r: r["layouts"]["nested"]["arena_bytes"],
    }
    means: dict[str, Any] = {}
    for rival, theirs in rivals.items():
        means[rival] = {
            stage: {
                "dynamic": statistics.mean(saved(ours(r), theirs(r)) for r in rows),
                "total": statistics.mean(
                    saved(ours(r) + r["persistent_bytes"], theirs(r) + r["persistent_bytes"])
                    for r in rows
                ),
            }
            for stage, ours in stages.items()
        }
    errors = {
        f"{r['model']} batch {r['batch']}": r["orders"]["program"]["plain"]["peak_bytes"]
        / r["eager"]["after"]
        - 1
        for r in rows
    }
    return {"mean_saved_fraction": means, "simulation_error": errors, **verdicts(rows)}


def verdicts(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return on which graphs a simple order suffices, where none helps, and which gaps closed."""
    found: dict[str, Any] = {"greedy_suffices": [], "order_cannot_help": [], "gaps": {}}
    for row in rows:
        for kind in ("plain", "donated"):
            graph = f"{row['model']} batch {row['batch']} {kind}"
            peaks = {rule: row["orders"][rule][kind]["peak_bytes"] for rule in GREEDY}
            ours = row["orders"]["roam"][kind]
            best, bound = min(peaks.values()), ours["bound_bytes"]
            if peaks["program"] <= bound:
                found["order_cannot_help"].append(graph)
            elif best <= bound:
                found["greedy_suffices"].append(graph)
            else:
                found["gaps"][graph] = {
                    "greedy_above_bound": best / bound - 1,
                    "ours_above_bound": ours["peak_bytes"] / bound - 1,
                    "closed_fraction": (best - ours["peak_bytes"]) / (best - bound),
                }
    solved = [
        (r["whole_graph_ilp"], r["orders"]["roam"]["plain"])
        for r in rows
        if "refused" not in r["whole_graph_ilp"]
    ]
    found["whole_graph_ilp"] = {
        "graphs_built": len(solved),
        "graphs_refused": len(rows) - len(solved),
        "saved_fraction": [saved(o["peak_bytes"], i["peak_bytes"]) for i, o in solved],
        "times_faster": [i["cpu_seconds"] / max(o["cpu_seconds"], 1e-4) for i, o in solved],
    }
    return found


def show(row: dict[str, Any]) -> None:
    mega = 1e6
    orders, ours = row["orders"], row["orders"]["roam"]
    print(
        f"{row['model']:16} {row['batch']:3} {row['num_operators']:5} ops | persistent "
        f"{row['persistent_bytes'] / mega:8.1f} | eager {row['eager']['after'] / mega:7.1f} hooks "
        f"{row['eager']['in_backward'] / mega:7.1f} | Inductor "
        f"{orders['inductor']['plain']['peak_bytes'] / mega:7.1f} | ours "
        f"{ours['plain']['peak_bytes'] / mega:7.1f} (bound "
        f"{ours['plain']['bound_bytes'] / mega:.1f}, {ours['plain']['cpu_seconds']:.2f} s), "
        f"donated "
        f"{ours['donated']['peak_bytes'] / mega:7.1f} (bound "
        f"{ours['donated']['bound_bytes'] / mega:.1f}, {ours['donated']['cpu_seconds']:.2f} s), "
        f"arena {row['layouts']['nested']['arena_bytes'] / mega:7.1f}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=step_models.NAMES)
    parser.add_argument("--eager", choices=["fake", "real"], default="fake")
    parser.add_argument("--ilp-seconds", type=float, default=60.0)
    args = parser.parse_args()
    rows = []
    for name in args.names:
        for batch in BATCHES.get(name, [1, 32]):
            rows.append(measure(name, batch, args.eager, args.ilp_seconds))
            show(rows[-1])
    found = summary(rows)
    for rival, stages in found["mean_saved_fraction"].items():
        line = ", ".join(
            f"{k} {v['dynamic']:.1%} ({v['total']:.1%} of all)" for k, v in stages.items()
        )
        print(f"saved against {rival}: {line}")
    print({key: value for key, value in found.items() if key != "mean_saved_fraction"})
    print(store.write("plan_memory", {"summary": found, "rows": rows}))


if __name__ == "__main__":
    main()
