"""Measurements that no table ranks, side by side: one table of measures and models."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from treadle.core.result import Measurement
from treadle.page import numbers
from treadle.page.scores import BASES
from treadle.page.sources import Run, history_of, input_of
from treadle.page.wording import last_part, settings_of, spaced

__all__ = ["MeasureTable", "NotedNumber", "loose_tables", "measure_tables"]


class NotedNumber(NamedTuple):
    """One number in words; the text may end in an interval in brackets."""

    text: str
    note: str
    unit: str


class MeasureTable(NamedTuple):
    """Measures of several runs; where they come with texts, a row is a measure, else a run."""

    title: str
    basis: str
    corner: str
    heads: list[tuple[str, str]]
    """Name and remark of each column."""
    rows: list[tuple[str, str, list[NotedNumber | None]]]
    """Name, remark and entries of each row; None where a run has no such measure."""
    has_intervals: bool


_BYTES = "bytes"
Named = tuple[str, list[Measurement]]
"""A run by its name, and what it measured."""


def loose_tables(runs: list[Run], loose: list[Run]) -> list[MeasureTable]:
    """Return one table for the measurements without a protocol of each command and method."""
    grouped: dict[tuple[str, str], list[Run]] = {}
    for run in loose:
        grouped.setdefault((run.result.command, run.result.method), []).append(run)
    found = []
    for (command, method), group in grouped.items():
        names = _names(runs, group)
        named = [(name, run.result.measurements) for name, run in zip(names, group, strict=True)]
        found += measure_tables(f"{command} {method}".strip(), named)
    return found


def measure_tables(title: str, named: Sequence[Named]) -> list[MeasureTable]:
    """Return what runs measured as tables: those of different bases never share one."""
    found = []
    for basis in BASES:
        own = [
            (name, [entry for entry in entries if entry.basis == basis]) for name, entries in named
        ]
        own = [(name, entries) for name, entries in own if entries]
        if own:
            found.append(_table(title, basis, own))
    return found


def _table(title: str, basis: str, named: Sequence[Named]) -> MeasureTable:
    measures = list(dict.fromkeys(e.name for _, entries in named for e in entries))
    entries = {(name, e.name): e for name, found in named for e in found}
    cells: dict[tuple[str, str], NotedNumber] = {}
    remarks: dict[str, str] = {}
    for measure in measures:
        _in_one_unit(entries, measure)
        alike = [e for (_, name), e in entries.items() if name == measure]
        remarks[measure] = _remark(alike)
        powers = numbers.powers_for(end for e in alike for end in (e.value, e.low, e.high))
        for (name, own), entry in entries.items():
            if own == measure:
                cells[name, own] = _cell(entry, powers, remarks[measure])
        if any(cell.note for (_, own), cell in cells.items() if own == measure):
            remarks[measure] = ""  # the unit stands beside each number
    models = [name for name, _ in named]
    has_texts = any(cell.note for cell in cells.values())
    intervals = any(entry.low is not None for entry in entries.values())
    if has_texts or len(models) < 2:
        heads = [(name, "") for name in models]
        rows = [
            (spaced(measure), remarks[measure], [cells.get((name, measure)) for name in models])
            for measure in measures
        ]
        return MeasureTable(title, basis, "Measure", heads, rows, intervals)
    heads = [(spaced(measure), remarks[measure]) for measure in measures]
    by_model = [(n, "", [cells.get((n, measure)) for measure in measures]) for n in models]
    return MeasureTable(title, basis, "Model", heads, by_model, intervals)


def _in_one_unit(entries: dict[tuple[str, str], Measurement], measure: str) -> None:
    """Count bytes in the unit that suits the largest of a measure's numbers."""
    own = {key: entry for key, entry in entries.items() if key[1] == measure}
    if not all(entry.unit.startswith(_BYTES) for entry in own.values()):
        return
    unit, size = numbers.bytes_unit([abs(entry.value) for entry in own.values()])
    for key, entry in own.items():
        ends = {
            name: None if end is None else end / size
            for name, end in (("low", entry.low), ("high", entry.high))
        }
        said = entry.unit.replace(_BYTES, unit, 1)
        entries[key] = entry.model_copy(update={"value": entry.value / size, "unit": said, **ends})


def _remark(alike: Sequence[Measurement]) -> str:
    """Return what is said of all of a measure's numbers: their unit, and which way is better."""
    units = {entry.unit for entry in alike}
    # What stands beside intervals says what they are; other notes are a run's own, as answers are.
    notes = {entry.note if entry.low is not None else "" for entry in alike}
    better = {entry.better for entry in alike} - {"neither"}
    parts = [units.pop() if len(units) == 1 else ""]
    parts += [notes.pop() if len(notes) == 1 else ""]
    parts += [f"{better.pop()} is better" if len(better) == 1 else ""]
    return ", ".join(filter(None, parts))


def _cell(entry: Measurement, powers: bool, remark: str) -> NotedNumber:
    text = numbers.plain(entry.value, powers=powers)
    if entry.low is not None and entry.high is not None:
        decimals = numbers.score_decimals(entry.value, entry.low, entry.high)
        text = numbers.interval(entry.value, entry.low, entry.high, decimals, powers)
    said = [part for part in (entry.unit, entry.note) if part and part not in remark]
    return NotedNumber(text, ", ".join(said), entry.unit)


def _names(runs: list[Run], group: Sequence[Run]) -> list[str]:
    """Return what tells the runs of a group apart: their models, and settings in which they differ.

    What nothing else tells apart is told by its output.
    """
    settings = [settings_of(run.result.settings) for run in group]
    differing = [
        key
        for key in dict.fromkeys(key for own in settings for key in own)
        if len({own.get(key, "") for own in settings}) > 1
    ]
    names = []
    for run, own in zip(group, settings, strict=True):
        path, content_hash = input_of(run.result, "model")
        # What a run says of the model that it made is not true of the one that it read.
        path = "" if run.made_hash else path
        model = last_part(path or run.result.output)
        told = history_of(runs, path, content_hash) if content_hash else ""
        parts = [f"{spaced(key)} {own[key]}" for key in differing if own.get(key)]
        names.append(", ".join([model or told or run.result.command, *parts]))
    return list(_apart(names, group))


def _apart(names: Sequence[str], group: Sequence[Run]) -> Iterable[str]:
    for number, (name, run) in enumerate(zip(names, group, strict=True), 1):
        if names.count(name) < 2:
            yield name
        else:
            yield f"{name} ({last_part(run.result.output) or number})"
