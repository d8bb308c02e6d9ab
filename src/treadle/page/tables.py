"""Score tables in words: columns share their units and decimals, so that numbers line up."""

import math
from collections.abc import Iterable
from typing import NamedTuple

from treadle.core.result import Measurement, Result
from treadle.page import numbers
from treadle.page.scores import ProtocolTable, Row, is_sound, same_amount
from treadle.page.sources import Run, input_of
from treadle.page.wording import spaced

__all__ = ["Cost", "ScoreRow", "ScoreTable", "score_table"]

_ALIKE = 100.0
"""Largest ratio of two scores in a column up to which all of them get the same decimals."""


class Cost(NamedTuple):
    """What runs took: by the clock, of the processor, at most of memory."""

    seconds: str
    cpu_seconds: str
    peak_memory: str
    is_resumed: bool
    """Whether these are the costs of the last part only."""


class ScoreRow(NamedTuple):
    """One line of a score table."""

    method: str
    settings: str
    model: str
    model_path: str
    tags: list[str]
    is_best: bool
    amount: str | None
    score: str
    comparison: str | None
    verdict: str | None
    making: Cost | None
    evaluating: Cost
    size: str | None


class ScoreTable(NamedTuple):
    """One score under one protocol, the best first."""

    score: str
    basis: str
    unit: str
    direction: str
    amount: str
    comparison: str
    memory_unit: str
    size_unit: str
    has_intervals: bool
    has_making: bool
    has_resumed: bool
    rows: list[ScoreRow]


def score_table(table: ProtocolTable) -> ScoreTable:
    """Put a table into words."""
    rows = table.rows
    scores = _intervals([row.score for row in rows])
    comparisons = _intervals([row.comparison for row in rows])
    sizes = [row.evaluation.result.bytes.get("input") for row in rows]
    size_unit, size = numbers.bytes_unit([entry for entry in sizes if entry])
    memory_unit, memory = numbers.bytes_unit([_peak(run) for row in rows for run in _runs(row)])
    making = _costs([row.makers for row in rows], memory)
    evaluating = _costs([(row.evaluation,) for row in rows], memory)
    amounts = [row.made(table.amount) for row in rows]
    powers = numbers.powers_for(amounts)
    size_decimals = numbers.decimals_for([entry / size for entry in sizes if entry])
    found = []
    for place, row in enumerate(rows):
        amount, held = amounts[place], sizes[place]
        cost = evaluating[place]
        assert cost is not None
        found.append(
            ScoreRow(
                method=row.method,
                settings=row.settings,
                model=row.model,
                model_path=input_of(row.evaluation.result, "model")[0],
                tags=_tags(table, place),
                is_best=_is_best(table, place),
                amount=None if amount is None else numbers.plain(amount, 3, powers),
                score=scores[place] or "",
                comparison=_itself(row, table) or comparisons[place],
                verdict=_verdict(row),
                making=making[place],
                evaluating=cost,
                size=None if held is None else numbers.fixed(held / size, size_decimals),
            )
        )
    compared = [row.comparison.name for row in rows if row.comparison]
    return ScoreTable(
        score=spaced(table.score),
        basis=table.basis,
        unit=table.unit,
        direction=f"{table.better} is better",
        amount=spaced(table.amount),
        comparison=_comparison_name(compared),
        memory_unit=memory_unit,
        size_unit=size_unit,
        has_intervals=any(row.score.low is not None for row in rows),
        has_making=any(row.makers for row in rows),
        has_resumed=any(run.is_resumed for row in rows for run in _runs(row)),
        rows=found,
    )


def _runs(row: Row) -> tuple[Run, ...]:
    return (*row.makers, row.evaluation)


def _peak(run: Run) -> int:
    return run.result.peak_memory_bytes


def _intervals(entries: list[Measurement | None] | list[Measurement]) -> list[str | None]:
    """Return each entry with its interval in the notation of the column.

    Columns of like numbers share their decimals.
    """
    present = [entry for entry in entries if entry is not None]
    wanted = sorted(numbers.score_decimals(e.value, e.low, e.high) for e in present)
    sizes = [abs(e.value) for e in present if e.value and math.isfinite(e.value)]
    powers = numbers.powers_for(end for e in present for end in (e.value, e.low, e.high))
    alike = bool(sizes) and max(sizes) <= _ALIKE * min(sizes)
    middle = wanted[len(wanted) // 2] if wanted else 0
    found: list[str | None] = []
    for entry in entries:
        if entry is None:
            found.append(None)
            continue
        own = numbers.score_decimals(entry.value, entry.low, entry.high)
        decimals = middle if alike else own
        found.append(numbers.interval(entry.value, entry.low, entry.high, decimals, powers))
    return found


def _costs(chains: Iterable[tuple[Run, ...]], memory: float) -> list[Cost | None]:
    """Return for each chain of runs the sums of their seconds and the largest of their peaks."""
    runs = list(chains)
    results: list[list[Result]] = [[run.result for run in chain] for chain in runs]
    wall = [sum(result.seconds for result in chain) for chain in results]
    cpu = [sum(result.cpu_seconds for result in chain) for chain in results]
    peaks = [max((r.peak_memory_bytes for r in chain), default=0) / memory for chain in results]
    places = [numbers.decimals_for(column) for column in (wall, cpu, peaks)]
    return [
        Cost(
            numbers.fixed(wall[place], places[0]),
            numbers.fixed(cpu[place], places[1]),
            numbers.fixed(peaks[place], places[2]),
            any(run.is_resumed for run in runs[place]),
        )
        if chain
        else None
        for place, chain in enumerate(results)
    ]


def _tags(table: ProtocolTable, place: int) -> list[str]:
    row = table.rows[place]
    tags = ["best"] if _is_best(table, place) else []
    amount = row.made(table.amount)
    peers = [other for other in table.rows if same_amount(other.made(table.amount), amount)]
    is_first = is_sound(row.score) and len(peers) > 1 and peers[0] is row
    if place and amount is not None and is_first:
        tags.append(f"best at {spaced(table.amount)} {numbers.plain(amount, 3)}")
    if row.is_control:
        tags.append("control")
    if row.is_baseline:
        tags.append("baseline")
    return tags


def _is_best(table: ProtocolTable, place: int) -> bool:
    return place == 0 and len(table.rows) > 1 and is_sound(table.rows[0].score)


def _verdict(row: Row) -> str | None:
    if not row.is_sound:
        return f"no verdict: {'not a number' if _has_nan(row) else 'not finite'}"
    if row.is_baseline and row.comparison is None:
        return "is the baseline"
    known = {"no": "no", "better": "yes, better", "worse": "yes, worse", None: None}
    return known[row.verdict]


def _has_nan(row: Row) -> bool:
    entries = [row.score, *([row.comparison] if row.comparison else [])]
    ends = (end for entry in entries for end in (entry.value, entry.low, entry.high))
    return any(end is not None and math.isnan(end) for end in ends)


def _itself(row: Row, table: ProtocolTable) -> str | None:
    """Return what comparing the baseline with itself gives, without measuring."""
    if not row.is_baseline or row.comparison is not None or not row.is_sound:
        return None
    neutral = next((other.neutral for other in table.rows if other.comparison), 1.0)
    return f"{numbers.plain(neutral)}, by definition"


def _comparison_name(names: list[str]) -> str:
    if not names:
        return "Compared with the baseline"
    ending = names[0].rsplit("_", 1)[-1]
    return "Ratio to the baseline" if ending == "ratio" else "Difference to the baseline"
