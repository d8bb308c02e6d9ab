"""Rows of a sweep's table: cells that differ in nothing but what is averaged over."""

from collections.abc import Sequence, Set
from typing import NamedTuple

from treadle.app.sweep.axes import Value, spoken
from treadle.app.sweep.document import Document
from treadle.app.sweep.points import Point
from treadle.app.sweep.scores import Chain, Pair, Paired, Score, compare

__all__ = [
    "MeasuredCell",
    "Place",
    "SweepRow",
    "beside",
    "find_rows",
    "is_equal",
    "keys_of",
    "paired",
]

Place = dict[str, Value]


class MeasuredCell(NamedTuple):
    """A cell with what became of it."""

    point: Point
    chain: Chain
    """Empty where it failed."""
    base: Chain
    """Results of the steps that prepared it."""
    error: str = ""


class SweepRow(NamedTuple):
    """The cells that are averaged."""

    place: Place
    cells: list[MeasuredCell]
    given: str = ""
    """Name of the prepared artefact, where the row is the baseline that all are compared with."""
    inputs: tuple[str, ...] = ()
    """The artefacts that are averaged over: runs of one input are no independent ones."""

    @property
    def chains(self) -> list[Chain]:
        """The results of the cells that did not fail."""
        return [cell.chain for cell in self.cells if cell.chain]

    @property
    def groups(self) -> list[str]:
        """The inputs of the cells that did not fail."""
        return [self.group(cell) for cell in self.cells if cell.chain]

    def group(self, cell: MeasuredCell) -> str:
        """Return the inputs of a cell that are averaged over, as one text."""
        return repr([cell.point.place.get(key) for key in self.inputs])

    @property
    def is_control(self) -> bool:
        """Whether a step's method is a control."""
        return any(result.is_control for chain in self.chains for result in chain.values())

    @property
    def label(self) -> str:
        """What tells it from the others."""
        return ", ".join(filter(None, [self.given, *spoken(self.place)])) or "all"


def find_rows(document: Document, cells: Sequence[MeasuredCell]) -> list[SweepRow]:
    """Return the rows in the order of their cells; a prepared baseline stands first."""
    rows: dict[str, SweepRow] = {}
    inputs = tuple(key for key in document.repeat if key in document.artefacts)
    for cell in cells:
        place = {k: v for k, v in cell.point.place.items() if k not in document.repeat}
        row = SweepRow(place, [], "", inputs)
        rows.setdefault(repr(sorted(place.items())), row).cells.append(cell)
    return [*_given(document, cells), *rows.values()]


def _given(document: Document, cells: Sequence[MeasuredCell]) -> list[SweepRow]:
    """Return a row for each prepared baseline: one for each model that is not averaged over."""
    name, rows, seen = document.baseline, dict[str, SweepRow](), set[str]()
    for cell in cells:
        if not isinstance(name, str) or name not in cell.base:
            continue
        models = {k: v for k, v in cell.point.place.items() if k in document.artefacts}
        place = {k: v for k, v in models.items() if k not in document.repeat}
        if (model := repr(sorted(models.items()))) not in seen:
            seen.add(model)
            chain = {name: cell.base[name]}
            row = rows.setdefault(repr(sorted(place.items())), SweepRow(place, [], name))
            row.cells.append(MeasuredCell(cell.point, chain, chain))
    return list(rows.values())


def keys_of(rows: Sequence[SweepRow]) -> list[str]:
    """Return all axes of the rows, in the order in which they are written."""
    own = [row for row in rows if not row.given] or rows
    return list(dict.fromkeys(key for row in own for key in row.place))


def paired(
    document: Document, score: Score, row: SweepRow, rows: Sequence[SweepRow]
) -> Paired | None:
    """Return a row's difference to the baseline; None for the baseline itself."""
    baseline = document.baseline
    if baseline is None or score.measure.comparison is not None or row.given:
        return None
    if isinstance(baseline, str):
        cells = [cell for cell in row.cells if cell.chain and baseline in cell.base]
        pairs = [
            Pair(cell.chain, {baseline: cell.base[baseline]}, row.group(cell)) for cell in cells
        ]
        return compare(score, pairs)
    if baseline.items() <= row.place.items():
        return None
    others = [
        cell
        for other in rows
        for cell in other.cells
        if not other.given and baseline.items() <= cell.point.place.items()
    ]
    pairs = beside(document, row, others, set(baseline))
    found = compare(score, pairs)
    if found is not None and len(pairs) > 1 and len({id(pair.base) for pair in pairs}) == 1:
        note = ", ".join(filter(None, [found.difference.note, "one run of the baseline"]))
        difference = found.difference.model_copy(update={"note": note})
        return found._replace(difference=difference)
    return found


def beside(
    document: Document, row: SweepRow, others: Sequence[MeasuredCell], free: Set[str]
) -> list[Pair]:
    """Return each cell of a row beside that of others which is equal in all axes but the `free`.

    Of what is averaged over, a single other run stands beside each.
    """
    found = []
    for cell in (cell for cell in row.cells if cell.chain):
        equal = [other for other in others if is_equal(cell, other, free | set(document.repeat))]
        same = [other for other in equal if is_equal(cell, other, free)]
        chosen = same or (equal if len(equal) == 1 else [])
        found += [
            Pair(cell.chain, other.chain, row.group(cell)) for other in chosen[:1] if other.chain
        ]
    return found


def is_equal(cell: MeasuredCell, other: MeasuredCell, free: Set[str]) -> bool:
    """Whether two cells have the same values on all axes that both know, but the `free`."""
    mine, theirs = cell.point.place, other.point.place
    return all(mine[key] == theirs[key] for key in mine.keys() & theirs.keys() - free)
