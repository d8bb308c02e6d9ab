"""Rows of a sweep's table: cells that differ in nothing but what is averaged over."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from treadle.app.sweep.axes import Value, spoken
from treadle.app.sweep.document import Document, Point
from treadle.app.sweep.scores import Chain, Paired, Score, compare

__all__ = ["MeasuredCell", "Place", "SweepRow", "find_rows", "keys_of", "paired"]

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

    @property
    def chains(self) -> list[Chain]:
        """The results of the cells that did not fail."""
        return [cell.chain for cell in self.cells if cell.chain]

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
    for cell in cells:
        place = {k: v for k, v in cell.point.place.items() if k not in document.repeat}
        rows.setdefault(repr(sorted(place.items())), SweepRow(place, [])).cells.append(cell)
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
        return compare(score, [(cell.chain, {baseline: cell.base[baseline]}) for cell in cells])
    if baseline.items() <= row.place.items():
        return None
    return compare(score, _pairs(row, rows, baseline, document.repeat))


def _pairs(
    row: SweepRow, rows: Sequence[SweepRow], baseline: Mapping[str, Value], repeat: Sequence[str]
) -> list[tuple[Chain, Chain]]:
    """Return each cell beside the baseline's: with the same other values, or else the only one."""
    cells = [cell for other in rows if not other.given for cell in other.cells if cell.chain]
    found = []
    for cell in (cell for cell in row.cells if cell.chain):
        place = cell.point.place
        seeds = {key: place[key] for key in repeat if key in place}
        others = {key: value for key, value in place.items() if key not in seeds}
        everywhere = [{**baseline, **seeds}, dict(baseline)]
        for wanted in [{**place, **baseline}, {**others, **baseline}, *everywhere]:
            same = [other for other in cells if other.point.place == wanted]
            if same:
                found.append((cell.chain, same[0].chain))
                break
    return found
