"""Score tables in words: columns share their units and decimals, so that numbers line up."""

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from treadle.core.result import Measurement, Result
from treadle.page import numbers
from treadle.page.gains import gains_of
from treadle.page.groups import (
    Group,
    common_parts,
    groups_of,
    names_in,
    own_name,
    own_parts,
)
from treadle.page.parents import beaten, listed_parents, parents_in
from treadle.page.scores import ProtocolTable, Row, is_sound
from treadle.page.sources import Run, input_of
from treadle.page.wording import listed, spaced

__all__ = ["Cost", "ScoreGroup", "ScoreRow", "ScoreTable", "score_table"]

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
    """One line of a score table: what a model is, what it scores, what it gained, what it took."""

    name: str
    """What tells it from the others of its group."""
    method: str
    settings: str
    model: str
    model_path: str
    tags: list[str]
    is_best: bool
    parents: str
    """What it was made from, where that was several models, and which of them it beats."""
    amount: str | None
    score: str
    comparison: str | None
    verdict: str | None
    making: Cost | None
    evaluating: Cost
    size: str | None
    zeros: str
    held: str | None
    speed: str | None


class ScoreGroup(NamedTuple):
    """Models to which the same was done."""

    heading: str
    settings: str
    """Those that all of them share, and not all others."""
    rows: list[ScoreRow]


class ScoreTable(NamedTuple):
    """One score under one protocol, by what was done, the best first."""

    score: str
    basis: str
    unit: str
    direction: str
    amount: str
    """Empty where the headings say it."""
    comparison: str
    """Empty where nothing was compared."""
    memory_unit: str
    size_unit: str
    """Empty where no size is known; likewise the next two."""
    held_unit: str
    speed: str
    has_intervals: bool
    has_making: bool
    has_resumed: bool
    groups: list[ScoreGroup]

    @property
    def rows(self) -> list[ScoreRow]:
        """Return all rows, group by group."""
        return [row for group in self.groups for row in group.rows]


def score_table(table: ProtocolTable, runs: Sequence[Run] = ()) -> ScoreTable:
    """Put a table into words; `runs` may hold what was measured of its models beside it."""
    groups = groups_of(table)
    order = [row for group in groups for row in group.rows]
    table = table._replace(rows=order)
    columns = _Columns.of(table, list(runs))
    names = [name for group in groups for name in names_in(group.rows)]
    rows = [columns.row(table, place, name) for place, name in enumerate(names)]
    firsts = {id(row) for group in groups for row in _best(group)}
    rows = [
        _tagged(words, row, is_best=id(row) in firsts and is_sound(row.score))
        for words, row in zip(rows, order, strict=True)
    ]
    told = iter(rows)
    compared = [row.comparison.name for row in order if row.comparison]
    amounts = {entry.amount for entry in rows if entry.amount is not None}
    return ScoreTable(
        score=spaced(table.score),
        basis=table.basis,
        unit=table.unit,
        direction=f"{table.better} is better" if table.better != "neither" else "",
        amount=spaced(table.amount) if len(amounts) > 1 else "",
        comparison=_comparison_name(compared),
        memory_unit=columns.memory_unit,
        size_unit=columns.size_unit,
        held_unit=columns.held_unit,
        speed=columns.speed,
        has_intervals=any(row.score.low is not None for row in order),
        has_making=any(row.makers for row in order),
        has_resumed=any(run.is_resumed for row in order for run in _runs(row)),
        groups=[_group(group, told) for group in groups],
    )


def _best(group: Group) -> list[Row]:
    """Return the rows that share the group's best score; none where all of its models have it."""
    if len({row.model_hash for row in group.rows}) < 2:
        return []
    found = [row for row in group.rows if row.score.value == group.rows[0].score.value]
    return found if len(found) < len(group.rows) else []


def _group(group: Group, told: Iterator[ScoreRow]) -> ScoreGroup:
    """Return the words of a group; what its rows share is said once."""
    common = common_parts(group.rows)
    rows = [
        next(told)._replace(settings=", ".join(p for p in own_parts(row) if p not in common))
        for row in group.rows
    ]
    said = [part for part in common if part.lower() != group.heading.lower()]
    return ScoreGroup(group.heading, ", ".join(said), rows)


class _Columns(NamedTuple):
    """The entries of a table, column by column: each has one unit and one notation."""

    scores: list[str | None]
    comparisons: list[str | None]
    making: list[Cost | None]
    evaluating: list[Cost | None]
    memory_unit: str
    sizes: list[str | None]
    size_unit: str
    zeros: list[str]
    held: list[str | None]
    held_unit: str
    speeds: list[str | None]
    speed: str
    powers: bool
    """Whether amounts are written in powers of ten."""

    @classmethod
    def of(cls, table: ProtocolTable, runs: list[Run]) -> "_Columns":
        """Put the columns of a table into words."""
        rows = table.rows
        memory_unit, memory = numbers.bytes_unit([_peak(run) for row in rows for run in _runs(row)])
        gains, speed = gains_of(table, runs)
        size_unit, sizes = _sizes([gain.size_bytes for gain in gains])
        held_unit, held = _sizes([gain.held_bytes for gain in gains])
        fractions = [gain.zero_fraction for gain in gains]
        return cls(
            scores=_intervals([row.score for row in rows]),
            comparisons=_intervals([row.comparison for row in rows]),
            making=_costs([row.makers for row in rows], memory),
            evaluating=_costs([(row.evaluation,) for row in rows], memory),
            memory_unit=memory_unit,
            sizes=sizes,
            size_unit=size_unit,
            zeros=["" if one is None else f"{numbers.share(one)} zeros" for one in fractions],
            held=held,
            held_unit=held_unit,
            speeds=[numbers.plain(g.speed.value, 3) if g.speed else None for g in gains],
            speed="" if speed is None else speed.unit or spaced(speed.name),
            powers=numbers.powers_for(row.made(table.amount) for row in rows),
        )

    def row(self, table: ProtocolTable, place: int, name: str) -> ScoreRow:
        """Return the words of a row."""
        row = table.rows[place]
        amount, cost = row.made(table.amount), self.evaluating[place]
        assert cost is not None
        return ScoreRow(
            name=name,
            method=own_name(row),
            settings="",
            model=row.model,
            model_path=input_of(row.evaluation.result, "model")[0],
            tags=[],
            is_best=False,
            parents=_parents(table, row),
            amount=None if amount is None else numbers.plain(amount, 3, self.powers),
            score=self.scores[place] or "",
            comparison=_itself(row, table) or self.comparisons[place],
            verdict=_verdict(row),
            making=self.making[place],
            evaluating=cost,
            size=self.sizes[place],
            zeros=self.zeros[place],
            held=self.held[place],
            speed=self.speeds[place],
        )


def _tagged(words: ScoreRow, row: Row, is_best: bool) -> ScoreRow:
    tags = ["best"] if is_best else []
    tags += ["control"] if row.is_control else []
    tags += ["baseline"] if row.is_baseline else []
    return words._replace(tags=tags, is_best=is_best)


def _parents(table: ProtocolTable, row: Row) -> str:
    """Return what a model was made from, with their scores, and which of them it beats."""
    parents = parents_in(table, row)
    if not parents:
        return ""
    won = beaten(row, parents)
    if not won:
        known = [one for one in parents if one.row is not None]
        none = "neither" if len(parents) == 2 else "none of them"
        beats = f"; beats {none}" if len(known) == len(parents) else ""
        return f"from {listed_parents(parents)}{beats}"
    names = "both" if len(won) == len(parents) == 2 else listed(one.parent.name for one in won)
    sure = "clearly" if all(one.is_clear for one in won) else "within the intervals"
    return f"from {listed_parents(parents)}; beats {names}, {sure}"


def _sizes(values: list[int | None]) -> tuple[str, list[str | None]]:
    """Return the unit of a column of byte counts, and its entries; no unit where none is known."""
    known = [value for value in values if value]
    unit, size = numbers.bytes_unit(known)
    decimals = numbers.decimals_for([value / size for value in known])
    texts = [numbers.fixed(one / size, decimals) if one else None for one in values]
    return unit if known else "", texts


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
        return ""
    ending = names[0].rsplit("_", 1)[-1]
    return "Ratio to the baseline" if ending == "ratio" else "Difference to the baseline"
