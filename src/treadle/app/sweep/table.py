"""The tables of a sweep: a row for each combination of values, averaged over seeds."""

from collections.abc import Sequence
from typing import NamedTuple

from treadle.app.sweep.axes import spoken
from treadle.app.sweep.document import Document
from treadle.app.sweep.figure import figure
from treadle.app.sweep.losses import losses
from treadle.app.sweep.rows import MeasuredCell, SweepRow, find_rows, keys_of, paired
from treadle.app.sweep.scores import NOTHING, Paired, Score, average, broken, find_scores
from treadle.core.result import Basis, Column, Entry, Figure, Table

__all__ = ["Summary", "summarise"]

_COSTS = [
    Column(name="seconds", unit="s"),
    Column(name="CPU seconds", unit="s"),
    Column(name="peak memory", unit="bytes"),
    Column(name="size", unit="bytes"),
]
_COUNTED = (
    "Means over runs, of the verbs alone, as their results tell them: without the start of their "
    "processes, which load torch and the verbs' own modules before the first is timed."
)
_MOST_FIGURES = 4
_MOST_NAMED = 5


class Summary(NamedTuple):
    """What a sweep found."""

    scores: list[Table]
    """One for each basis: the same bytes for the same results, in however many parts and runs they
    were made."""
    costs: Table
    """What was spent: in no two runs the same."""
    figures: list[Figure]


class _Paired(NamedTuple):
    """A score with the differences of all rows to the baseline."""

    score: Score
    pairs: list[Paired | None]
    has_failed: bool
    """Whether a baseline failed: then its columns stay, and say so."""
    has_examples: bool = True
    """Whether the column by example is this score's, and not that of another one."""

    @property
    def examples(self) -> str:
        """What is paired example by example; empty if nothing is."""
        if not self.has_examples:
            return ""
        return next((pair.examples for pair in self.pairs if pair and pair.examples), "")

    @property
    def is_paired(self) -> bool:
        """Whether any row has a difference, or should have one."""
        is_compared = self.score.measure.comparison is None
        return any(pair is not None for pair in self.pairs) or (self.has_failed and is_compared)


def summarise(document: Document, cells: Sequence[MeasuredCell]) -> Summary:
    """Return the tables, the plots and the losses of all cells.

    Raises:
        DataError: No cell has a score that was asked for.
    """
    rows = find_rows(document, cells)
    scores = find_scores([cell.chain for cell in cells if cell.chain], document.scores)
    bases = list(dict.fromkeys(score.measure.basis for score in scores)) or ["measured"]
    tables = []
    for basis in bases:
        own = [score for score in scores if score.measure.basis == basis]
        has_failed = bool(_failed_baselines(document, cells))
        pairs = [[paired(document, score, row, rows) for row in rows] for score in own]
        found = [_Paired(*both, has_failed) for both in zip(own, pairs, strict=True)]
        for number, one in enumerate(found):
            if one.examples in {other.examples for other in found[:number]}:
                found[number] = one._replace(has_examples=False)
        tables.append(_table(document, rows, found, basis, cells))
    costs = Table(
        title="What it cost",
        columns=[*_axes(document, rows), *_COSTS],
        rows=[[*_place(document, row, rows), *_costs(row)] for row in rows],
        notes=[_COUNTED],
    )
    figures = [figure(document, score, rows) for score in scores[:_MOST_FIGURES]]
    return Summary(tables, costs, figures)


def _axes(document: Document, rows: Sequence[SweepRow]) -> list[Column]:
    """Return a column for each axis, called without its step where no other has that name."""
    keys = keys_of(rows)
    short = [key.rpartition(".")[2] for key in keys]
    names = [s if short.count(s) == 1 else k for k, s in zip(keys, short, strict=True)]
    return [Column(name=name) for name in names or ["cell"]]


def _place(document: Document, row: SweepRow, rows: Sequence[SweepRow]) -> list[Entry]:
    """Return a row's values of the axes; the first that is no model's says what the row is."""
    keys = keys_of(rows)
    found = [Entry(value=row.place.get(key)) for key in keys] or [Entry(value=row.label)]
    first = next((n for n, key in enumerate(keys) if key not in document.artefacts), 0)
    if row.given:
        found[first] = Entry(value=row.given, note="baseline")
    elif row.is_control:
        found[first] = found[first].model_copy(update={"note": "control"})
    return found


def _table(
    document: Document,
    rows: Sequence[SweepRow],
    scores: Sequence[_Paired],
    basis: Basis,
    cells: Sequence[MeasuredCell],
) -> Table:
    has_failed = any(cell.error for row in rows for cell in row.cells)
    columns = [*_axes(document, rows), Column(name="runs")]
    columns += [Column(name="failed")] * has_failed
    columns += [column for one in scores for column in _columns(one)]
    columns = _told_apart(columns)
    lines = []
    for number, row in enumerate(rows):
        line = [*_place(document, row, rows), Entry(value=float(len(row.chains)))]
        failed = [cell.error for cell in row.cells if cell.error]
        line += [Entry(value=float(len(failed)), note=failed[0] if failed else "")] * has_failed
        for one in scores:
            line.append(average(one.score, row.chains, row.groups))
            line += _differences(one, one.pairs[number])
        lines.append(line)
    return Table(
        title=document.name,
        columns=columns,
        rows=lines,
        basis=basis,
        notes=_notes(document, rows, scores, cells),
        losses=losses(document, [one.score for one in scores], rows) if scores else None,
    )


def _told_apart(columns: Sequence[Column]) -> list[Column]:
    """Return columns whose names differ: a second one of a name is numbered."""
    seen, found = list[str](), list[Column]()
    for column in columns:
        seen.append(column.name)
        count = seen.count(column.name)
        name = column.name if count == 1 else f"{column.name} ({count})"
        found.append(column.model_copy(update={"name": name}))
    return found


def _failed_baselines(document: Document, cells: Sequence[MeasuredCell]) -> list[str]:
    """Return why baselines are missing, each reason once."""
    given = document.baseline
    if given is None:
        return []
    if isinstance(given, str):
        found = [cell.error for cell in cells if given not in cell.base]
    else:
        own = [cell for cell in cells if given.items() <= cell.point.place.items()]
        found = [cell.error for cell in own if not cell.chain]
    return list(dict.fromkeys(error for error in found if error))


def _columns(one: _Paired) -> list[Column]:
    measure, title = one.score.measure, one.score.title
    neutral = None if measure.comparison is None else measure.comparison.neutral
    found = [Column(name=title, unit=measure.unit, better=measure.better, neutral=neutral)]
    if one.is_paired:
        name = f"{title} minus baseline"
        found.append(Column(name=name, unit=measure.unit, better=measure.better, neutral=0.0))
        if one.examples:
            found.append(Column(name=f"{one.examples} minus baseline, by example", neutral=0.0))
        found.append(Column(name=f"{title} differs"))
    return found


def _differences(one: _Paired, pair: Paired | None) -> list[Entry]:
    if not one.is_paired:
        return []
    if pair is None:
        return [NOTHING] * (3 if one.examples else 2)
    by_example = [pair.by_example] if one.examples else []
    note = "by the examples of one run" if pair.is_by_example else ""
    return [pair.difference, *by_example, Entry(value=pair.verdict or None, note=note)]


def _notes(
    document: Document,
    rows: Sequence[SweepRow],
    scores: Sequence[_Paired],
    cells: Sequence[MeasuredCell],
) -> list[str]:
    over = " and ".join(document.repeat)
    notes = [
        f"Means over {over}, with Student's 95 % interval of the mean. A row of one run has the "
        f"interval that the run measured over its examples, if it did."
        if any(len(row.chains) > 1 for row in rows)
        else "Each row is one run: its interval, if there is one, is that over its examples; how "
        "far seeds differ is not known."
    ]
    for one in scores:
        if num_broken := broken(one.score, [chain for row in rows for chain in row.chains]):
            notes.append(
                f"{one.score.title} is no finite number in {num_broken} runs: their rows have no "
                f"mean."
            )
    if any(one.is_paired for one in scores):
        notes += _of_pairs(document, rows, scores, cells)
    if alone := _unpaired(document, rows, scores):
        shown = "; ".join(alone[:_MOST_NAMED])
        more = f" and {len(alone) - _MOST_NAMED} more" if len(alone) > _MOST_NAMED else ""
        notes.append(
            f"Nothing of the baseline compares with: {shown}{more} (no run of equal values in all "
            f"else, or of another protocol)."
        )
    return notes


def _of_pairs(
    document: Document,
    rows: Sequence[SweepRow],
    scores: Sequence[_Paired],
    cells: Sequence[MeasuredCell],
) -> list[str]:
    """Return what is to be known of the differences to the baseline."""
    given = document.baseline
    name = given if isinstance(given, str) else ", ".join(spoken(given or {}))
    notes = [
        f"The baseline is {name}. Differences are paired: each run with the baseline's of equal "
        f"values in all else. Student's 95 % interval over the pairs; none of one pair. “Differs” "
        f"says whether it excludes 0."
    ]
    if any(one.examples for one in scores):
        notes.append(
            "By example, the examples of each pair are paired as well: Student's 95 % interval of "
            "these runs on other examples, which says nothing of other runs. It decides what "
            "“differs” only where there is one run (or seeds change nothing), of that run alone."
        )
    notes += [
        f"The baseline {name} failed: {error}" for error in _failed_baselines(document, cells)
    ]
    return notes


def _unpaired(document: Document, rows: Sequence[SweepRow], scores: Sequence[_Paired]) -> list[str]:
    """Return the rows that have results, and nothing to compare them with."""
    given, found = document.baseline, list[str]()
    if given is None or not any(one.score.measure.comparison is None for one in scores):
        return []
    for number, row in enumerate(rows):
        is_own = row.given or (isinstance(given, dict) and given.items() <= row.place.items())
        has_pair = any(one.pairs[number] is not None for one in scores)
        if row.chains and not is_own and not has_pair:
            found.append(row.label)
    return found


def _costs(row: SweepRow) -> list[Entry]:
    if not row.chains:
        return [NOTHING] * len(_COSTS)
    count = len(row.chains)
    results = [result for chain in row.chains for result in chain.values()]
    sizes = [result.bytes["output"] for result in results if "output" in result.bytes]
    note = "resumed: of the last part" if any(result.is_resumed for result in results) else ""
    return [
        Entry(value=sum(result.seconds for result in results) / count, note=note),
        Entry(value=sum(result.cpu_seconds for result in results) / count, note=note),
        Entry(value=float(max(result.peak_memory_bytes for result in results))),
        Entry(value=sum(sizes) / len(sizes)) if sizes else NOTHING,
    ]
