"""Where a method loses: to the baseline, or to a control by as much."""

from collections.abc import Sequence

from treadle.app.sweep.document import Document
from treadle.app.sweep.rows import Place, SweepRow, paired
from treadle.app.sweep.scores import Chain, Score, compare

__all__ = ["losses"]


def losses(document: Document, score: Score, rows: Sequence[SweepRow]) -> list[str] | None:
    """Return in words which rows are worse than the baseline, or do not clearly beat a control.

    None where no row was compared with either.
    """
    if score.measure.better == "neither":
        return None
    found, num_compared = [], 0
    for row in rows:
        pair = paired(document, score, row, rows)
        num_compared += pair is not None
        if pair is not None and pair.verdict == "worse":
            found.append(f"{row.label} is worse than the baseline in {score.title}.")
        for control in _controls(document, row, rows):
            other = compare(score, _beside(document, row, control))
            num_compared += other is not None
            if other is not None and other.verdict != "better":
                said = "is worse than" if other.verdict == "worse" else "does not clearly beat"
                found.append(f"{row.label} {said} the control {control.label} in {score.title}.")
    return found if num_compared else None


def _controls(document: Document, row: SweepRow, rows: Sequence[SweepRow]) -> list[SweepRow]:
    """Return the controls by as much, of the same models."""
    if row.is_control or row.given:
        return []
    mine = _amount(document, row)
    return [
        other
        for other in rows
        if other.is_control and not other.given and _amount(document, other) == mine
    ]


def _amount(document: Document, row: SweepRow) -> Place:
    """Return what a control has to share: all numbers, and the models."""
    return {
        key: value
        for key, value in row.place.items()
        if isinstance(value, int | float) or key in document.artefacts
    }


def _beside(document: Document, row: SweepRow, control: SweepRow) -> list[tuple[Chain, Chain]]:
    """Return the cells of two rows by equal seeds; a control that ran once stands beside each."""
    others = [other for other in control.cells if other.chain]
    found = []
    for cell in (cell for cell in row.cells if cell.chain):
        same = [
            other
            for other in others
            if all(other.point.place.get(k) == cell.point.place.get(k) for k in document.repeat)
        ]
        chosen = same or (others if len(others) == 1 else [])
        found += [(cell.chain, other.chain) for other in chosen[:1]]
    return found
