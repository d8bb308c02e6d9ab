"""Recorded trees on a real model: tables of bytes and of seconds by mode of attention."""

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from treadle.core import hardware
from treadle.core.errors import SettingsError
from treadle.core.ports import Generator
from treadle.core.progress import steps
from treadle.core.result import Column, Entry, Figure, Measurement, Series, Table
from treadle.judge.bench.base import Outcome
from treadle.judge.bench.recorded import (
    EvenSteps,
    counted,
    read_trees,
    stretches_of,
    stretches_of_drafts,
    whole_trees,
)
from treadle.runtime.answering import RuntimeGenerator
from treadle.runtime.cache.pages import has_codes
from treadle.runtime.decode.recorded import RecordedTree
from treadle.runtime.llm import LLM
from treadle.runtime.sharing.account import AttentionShape, Traffic
from treadle.runtime.trees.compared import ComparedStep, comparing

if TYPE_CHECKING:
    from treadle.judge.bench.methods.trees import Trees

__all__ = ["replayed"]

_MODES = ("path", "flatten", "cascade", "node", "node_chunk", "dense")
_CONVENTIONS = {"exact": "as it is here", "paper": "as DeFT's repository counts"}
_UNITS = ((10**9, "GB"), (10**6, "MB"), (10**3, "kB"))
_KV_BYTES = {"fp32": 4, "fp16": 2, "int8": 1, "int4": 0.5}


class _Workload(NamedTuple):
    """What a file says of a model's steps."""

    stretches: list[list[EvenSteps]]
    """Of each tree."""
    trees: list[RecordedTree]
    """Those that can be decoded."""
    note: str


def replayed(method: "Trees", model: Generator) -> Outcome:
    """Return what the benchmark `trees` found."""
    if not isinstance(model, RuntimeGenerator):
        raise SettingsError("Trees are decoded by the runtime; give a model that it loads.")
    llm = model.llm
    workload = _workload(method, llm)
    measurements, tables = _bytes(workload, _shape(llm), method.tree.name)
    notes, figures = [workload.note], []
    if method.most_steps and workload.trees:
        found, timeline = _decoded(method, llm, workload.trees)
        measurements += _seconds(found, method.modes)
        measurements += _ceilings(found, method.modes, _work(method, llm, workload.trees))
        tables.append(_seconds_table(found, method.modes, method.tree.name))
        figures += [timeline, _curves(found, method.modes)]
        notes += _agreement(found, method.modes)
    return Outcome(measurements, notes, tuple(figures), tuple(tables))


def _workload(method: "Trees", llm: LLM) -> _Workload:
    several = read_trees(method.tree)
    if "Tree_Structure" in several[0]:
        return _drafts(several[0], llm)
    trees = whole_trees(several)
    if method.number >= len(trees):
        raise SettingsError(
            f"{method.tree} has {len(trees)} whole trees and none of number {method.number}; give "
            f"0 to {len(trees) - 1}."
        )
    found, lengths = [], []
    with steps("count trees", len(trees)) as bar:
        for tree in trees:
            length = method.pad_tokens or tree.num_prompt or len(llm.prompts.tokens(tree.prompt))
            found.append(stretches_of(tree.nodes, length))
            lengths.append(length)
            bar.advance()
    left_out = len(several) - len(trees)
    note = f"Counted over {len(trees)} trees, prompts of {np.mean(lengths):.0f} tokens on average"
    more = f"; {left_out} empty records are left out." if left_out else "."
    return _Workload(found, trees, note + more)


def _drafts(record: dict[str, Any], llm: LLM) -> _Workload:  # Any: JSON values
    paths = record["Tree_Structure"]
    found = [
        stretches_of_drafts(paths, one["Accept_length"], len(llm.prompts.tokens(one["prompt"])))
        for one in record["Records"]
    ]
    note = (
        f"Counted over {len(found)} texts with trees of {len(paths) + 1} drafts; each draft is a "
        f"token of one request's own, so that nothing is decoded here (see bench speculation)."
    )
    return _Workload(found, [], note)


def _shape(llm: LLM) -> AttentionShape:
    shape = llm.shape
    each = int(2 * shape.head_dim * _KV_BYTES[llm.kv_dtype]) + 8 * has_codes(llm.kv_dtype)
    heads = getattr(llm.executor, "query_heads", shape.kv_heads)
    return AttentionShape(tuple(heads), shape.kv_heads, shape.head_dim, each)


def _bytes(
    workload: _Workload, shape: AttentionShape, name: str
) -> tuple[list[Measurement], list[Table]]:
    """Return the bytes of all modes, a table for each convention."""
    tables, found = [], []
    for is_paper in (False, True):
        word = "paper" if is_paper else "exact"
        totals: dict[str, Traffic] = {}
        for mode in _MODES:
            several = [counted(own, mode, shape, is_paper) for own in workload.stretches]
            totals[mode] = functools.reduce(Traffic.plus, several)
        tables.append(_bytes_table(totals, f"{name}, {_CONVENTIONS[word]}"))
        path = totals["path"]
        for mode in ("flatten", "dense"):
            total = totals[mode]
            what = {
                f"kv_{mode}_{word}": (path.keys_values / total.keys_values, "path's reads"),
                f"moved_{mode}_{word}": (path.total / total.total, "all that path moves"),
            }
            if mode == "dense":
                what[f"scores_saved_{word}"] = (total.scores / path.keys_values, "path's reads")
            found += [
                Measurement(
                    name=label,
                    value=value,
                    unit=f"{'of' if label.startswith('scores') else 'times less than'} {unit}",
                    better="higher",
                    basis="simulated",
                )
                for label, (value, unit) in what.items()
            ]
    return found, tables


def _bytes_table(totals: dict[str, Traffic], name: str) -> Table:
    path = totals["path"].keys_values
    size, unit = next(((size, unit) for size, unit in _UNITS if path >= 10 * size), (1, "bytes"))
    parts = ("keys and values", "scores", "partial results", "masks", "peak of these three")
    columns = [
        Column(name="mode"),
        *(Column(name=part, unit=unit, better="lower") for part in parts),
        Column(name="keys and values of path", unit="times", better="higher", neutral=1),
    ]
    rows = [
        [
            Entry(value=mode),
            *(
                Entry(value=value / size)
                for value in (one.keys_values, one.scores, one.partials, one.masks, one.peak)
            ),
            Entry(value=path / one.keys_values),
        ]
        for mode, one in totals.items()
    ]
    title = f"What attention moves, counted: {name}"
    return Table(title=title, columns=columns, rows=rows, basis="simulated")


def _decoded(
    method: "Trees", llm: LLM, trees: Sequence[RecordedTree]
) -> tuple[list[ComparedStep], Figure]:
    """Decode a tree, some of its steps in every mode."""
    tree = trees[method.number]
    prompt = _prompt(method, llm, tree)
    longest = len(prompt) + tree.controller.num_tokens - 1
    if longest > llm.shape.max_positions:
        raise SettingsError(
            f"Tree {method.number} has branches of {longest} tokens with its prompt of "
            f"{len(prompt)}, more than the model's {llm.shape.max_positions} positions; give "
            f"--pad-tokens {max(1, llm.shape.max_positions - longest + len(prompt))} or fewer, "
            f"another --number, or --most-steps 0 to count only."
        )
    num_steps = max(tree.controller.num_tokens - 1, 1)
    every = max(1, num_steps // method.most_steps)
    last = every * method.most_steps
    with comparing(llm, method.modes, lambda at: at % every == 0 and at <= last) as found:
        output = llm.search(prompt, tree.controller, ignore_eos=True)
    if not found:
        raise SettingsError(
            f"No step of the tree was measured; lower most_steps below {num_steps}."
        )
    return found, output.figure()


def _prompt(method: "Trees", llm: LLM, tree: RecordedTree) -> list[int]:
    tokens = llm.prompts.tokens(tree.prompt)
    length = method.pad_tokens or tree.num_prompt or len(tokens)
    return (tokens * -(-length // len(tokens)))[:length]


class _Work(NamedTuple):
    """What attention cannot do without in a step on average."""

    flops: float
    """Multiplications and additions."""
    bytes: int
    """Keys and values, each of them read once."""


def _work(method: "Trees", llm: LLM, trees: Sequence[RecordedTree]) -> _Work:
    tree = trees[method.number]
    own = stretches_of(tree.nodes, len(_prompt(method, llm, tree)))
    slots = sum(
        one.num_steps * (node.num_slots + last.num_slots) / 2 * node.num_queries
        for one in own
        for node, last in zip(one.first, one.last, strict=True)
    )
    shape, num_steps = _shape(llm), sum(one.num_steps for one in own)
    flops = 4 * slots * sum(shape.heads) * shape.dim / num_steps
    # In no tiles: a node is read once.
    once = shape._replace(heads=shape.kv_heads)
    return _Work(flops, counted(own, "flatten", once).keys_values // num_steps)


def _seconds(found: Sequence[ComparedStep], modes: Sequence[str]) -> list[Measurement]:
    """Return the ratios of seconds to those of the first mode, and of plans to steps."""
    base, measurements = modes[0], []
    for mode in modes[1:]:
        for part in ("attention", "whole"):
            ratios = [
                getattr(one.seconds[mode], part) / max(getattr(one.seconds[base], part), 1e-9)
                for one in found
            ]
            low, middle, high = np.quantile(ratios, [0.25, 0.5, 0.75])
            measurements.append(
                Measurement(
                    name=f"{part}_{mode}",
                    value=float(middle),
                    low=float(low),
                    high=float(high),
                    unit=f"of {base}'s processor seconds",
                    better="lower",
                    note=f"median and quartiles of {len(found)} steps' ratios",
                )
            )
    plans = sum(one.seconds[m].plan for one in found for m in modes)
    whole = sum(one.seconds[m].whole for one in found for m in modes)
    measurements.append(
        Measurement(name="plan", value=plans / whole, unit="of all steps' seconds", better="lower")
    )
    return measurements


def _ceilings(
    found: Sequence[ComparedStep], modes: Sequence[str], work: _Work
) -> list[Measurement]:
    """Return how much faster whole steps are, and could be at most."""
    base = modes[0]
    whole = float(np.mean([one.seconds[base].whole for one in found]))
    attention = float(np.mean([one.seconds[base].attention for one in found]))
    plan = float(np.mean([one.seconds[base].plan for one in found]))
    rest = whole - attention - plan
    machine = hardware.measure()
    peak, rate = machine.multiply_peak_flops_per_second, machine.read_bandwidth_bytes_per_second
    least = max(work.flops / peak, work.bytes / rate)
    limits = {
        "ceiling_free": (whole / rest, f"if attention took no time; means of {len(found)} steps"),
        "ceiling_peak": (
            whole / (rest + min(attention, least)),
            f"if attention multiplied at {peak / 1e9:.0f} GFLOP/s and read keys and values once at "
            f"{rate / 1e9:.0f} GB/s, whichever takes longer",
        ),
    }
    measurements = [
        Measurement(name=name, value=value, unit="times faster at most", note=note)
        for name, (value, note) in limits.items()
    ]
    for mode in modes[1:]:
        own = float(np.mean([one.seconds[mode].whole for one in found]))
        measurements.append(
            Measurement(
                name=f"faster_{mode}", value=whole / own, unit="times, whole steps", better="higher"
            )
        )
    return measurements


def _seconds_table(found: Sequence[ComparedStep], modes: Sequence[str], name: str) -> Table:
    columns = [
        Column(name="mode"),
        Column(name="attention", unit="ms", better="lower"),
        Column(name="whole step", unit="ms", better="lower"),
        Column(name="plan", unit="ms", better="lower"),
    ]
    rows = []
    for mode in modes:
        own = [one.seconds[mode] for one in found]
        means = np.mean(own, axis=0) * 1e3
        attention, whole, plan = (float(value) for value in means)
        rows.append([Entry(value=value) for value in (mode, attention, whole, plan)])
    branches = np.mean([one.num_rows for one in found])
    title = f"Processor time of a step of {name}, {branches:.1f} branches on average"
    return Table(title=title, columns=columns, rows=rows)


def _curves(found: Sequence[ComparedStep], modes: Sequence[str]) -> Figure:
    return Figure(
        kind="line",
        title="Attention of a tree's steps",
        x_label="step",
        y_label="ms of the processors",
        series=[
            Series(
                name=mode,
                x=[float(one.step) for one in found],
                y=[1e3 * one.seconds[mode].attention for one in found],
            )
            for mode in modes
        ],
    )


def _agreement(found: Sequence[ComparedStep], modes: Sequence[str]) -> list[str]:
    """Say how the modes' best tokens compare with those of the first mode."""
    notes = []
    for mode in modes[1:]:
        own = [one.agreed[mode] for one in found]
        rows = sum(one.num_rows for one in own)
        ties, others = sum(one.num_ties for one in own), sum(one.num_others for one in own)
        equal, gap = sum(one.num_equal for one in own), max(one.largest_gap for one in own)
        notes.append(
            f"{mode}: of {rows} rows {equal} have the logits of {modes[0]} to the last bit; {ties} "
            f"ties (gap at most {gap:.2g} of the largest logit), {others} other best tokens."
        )
    return notes
