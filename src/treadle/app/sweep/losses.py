"""Where a method loses: to the baseline, or to a control by as much."""

from collections.abc import Sequence, Set

from treadle.app.sweep.bound import amounts
from treadle.app.sweep.document import Document
from treadle.app.sweep.rows import SweepRow, beside, paired
from treadle.app.sweep.scores import Pair, Paired, Score, broken, compare

__all__ = ["losses"]

_CALIBRATION = {"seed", "text", "calibrate", "num_windows", "window_tokens"}
"""What a method learns from says nothing of how much is done; controls learn from nothing."""


def losses(
    document: Document, scores: Sequence[Score], rows: Sequence[SweepRow]
) -> list[str] | None:
    """Return in words which rows are worse than the baseline, or do not clearly beat a control.

    None where no row was compared with either.
    """
    found, num_compared = [], 0
    for score in (score for score in scores if score.measure.better != "neither"):
        for row in rows:
            pair = paired(document, score, row, rows)
            others = [
                (control, compare(score, pairs))
                for control in rows
                if (pairs := _beside(document, row, control))
            ]
            num_compared += (pair is not None) + sum(other is not None for _, other in others)
            found += _said(score, row, pair, others)
    return found if num_compared else None


def _said(
    score: Score,
    row: SweepRow,
    pair: Paired | None,
    others: Sequence[tuple[SweepRow, Paired | None]],
) -> list[str]:
    found = []
    if num_broken := broken(score, row.chains):
        count = len(row.chains)
        found.append(f"{row.label} has no finite {score.title} in {num_broken} of {count} runs.")
    if pair is not None and pair.verdict == "worse":
        found.append(f"{row.label} is worse than the baseline in {score.title}{_by(pair)}.")
    for control, other in others:
        if other is not None and other.verdict != "better":
            said = "is worse than" if other.verdict == "worse" else "does not clearly beat"
            name = f"{control.label} in {score.title}{_by(other)}"
            found.append(f"{row.label} {said} the control {name}.")
    return found


def _by(pair: Paired) -> str:
    return " (by the examples of one run)" if pair.is_by_example else ""


def _beside(document: Document, row: SweepRow, control: SweepRow) -> list[Pair]:
    """Return the cells of a row beside a control's by as much: equal in all but the method.

    The methods may be other ones only at the steps where the control is one.
    """
    if row.is_control or row.given or not control.is_control or control.given:
        return []
    outs = {out for chain in control.chains for out, one in chain.items() if one.is_control}
    free = {key for key, out in document.methods.items() if out in outs}
    if not _do_as_much(document, row, control, outs):
        return []
    return beside(document, row, control.cells, free)


def _do_as_much(document: Document, row: SweepRow, control: SweepRow, outs: Set[str]) -> bool:
    """Whether the steps have equal settings beside their methods."""
    repeated = {key.rpartition(".")[2] for key in document.repeat}
    for step, other in zip(row.cells[0].point.steps, control.cells[0].point.steps, strict=True):
        if step.out in outs:
            mine, theirs = amounts(step), amounts(other)
            told = (mine.keys() | theirs.keys()) - _CALIBRATION - repeated
            if any(mine.get(key) != theirs.get(key) for key in told):
                return False
    return True
