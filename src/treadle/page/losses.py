"""Where a method loses: to a control, or to a simpler method, under equal conditions."""

from typing import NamedTuple

from treadle.core.result import Measurement
from treadle.page.scores import Row, Table, is_control, same_amount
from treadle.page.sources import input_of
from treadle.page.wording import listed

__all__ = ["Loss", "find_losses"]

_CHEAPER = 0.8
"""Share of the processor time up to which a method that reads the same inputs counts as simpler."""


class Loss(NamedTuple):
    """One row that a control or a simpler method matches or beats."""

    loser: Row
    winner: Row
    compared: tuple[Measurement, Measurement]
    """What was compared, the loser's first: paired comparisons where both have one."""
    is_clear: bool
    """Whether the winner's interval lies wholly on the better side."""
    reason: str
    """What the winner is."""


def find_losses(table: Table) -> list[Loss]:
    """Return every case in which a method loses.

    It does not clearly beat a control at the same amount, or the interval of a simpler method lies
    wholly on the better side.
    """
    found = []
    for loser in table.rows:
        for winner in table.rows:
            reason = _reason(loser, winner)
            if reason and _comparable(loser, winner, table.amount):
                loss = _judge(loser, winner, reason)
                found += [loss] if loss else []
    return sorted(found, key=lambda loss: (loss.loser.made(table.amount) or 0.0, loss.loser.label))


def _reason(loser: Row, winner: Row) -> str:
    """Say why `loser` should beat `winner`; empty if nothing says so."""
    if not loser.makers or not winner.makers or loser.method == winner.method:
        return ""
    if is_control(loser.makers[-1]):
        return ""
    if is_control(winner.makers[-1]):
        return "the control"
    theirs, ours = winner.makers[-1].result, loser.makers[-1].result
    if len(theirs.inputs) < len(ours.inputs):
        names = listed(f"the {entry.name}" for entry in theirs.inputs)
        return f"a simpler method, which reads only {names}"
    reads_alike = len(theirs.inputs) == len(ours.inputs)
    is_cheaper = theirs.cpu_seconds <= _CHEAPER * ours.cpu_seconds
    return "a cheaper method" if reads_alike and is_cheaper else ""


def _comparable(first: Row, second: Row, amount: str) -> bool:
    """Whether both models were made from the same one, by as much, with equal common settings."""
    left, right = (row.makers for row in (first, second))
    if [run.result.verb for run in left] != [run.result.verb for run in right]:
        return False
    if input_of(left[0].result, "model")[1] != input_of(right[0].result, "model")[1]:
        return False
    if not same_amount(first.made(amount), second.made(amount)):
        return False
    ours, others = left[-1].result.settings, right[-1].result.settings
    common = [key for key in ours if key in others and key != "method"]
    return all(ours[key] == others[key] for key in common if not isinstance(ours[key], dict))


def _judge(loser: Row, winner: Row, reason: str) -> Loss | None:
    pair = _compared(loser, winner)
    sign = -1.0 if loser.score.better == "higher" else 1.0
    ours, theirs = (_bounds(entry, sign) for entry in pair)
    if theirs[1] < ours[0]:
        return Loss(loser, winner, pair, True, reason)
    if reason == "the control" and not ours[1] < theirs[0]:
        return Loss(loser, winner, pair, False, reason)
    return None


def _compared(loser: Row, winner: Row) -> tuple[Measurement, Measurement]:
    """Return the paired comparisons if both were made with one baseline, else the scores.

    A comparison pairs examples, so its interval is free of what makes some examples harder.
    """
    if loser.comparison and winner.comparison and loser.baseline_hash == winner.baseline_hash:
        return loser.comparison, winner.comparison
    return loser.score, winner.score


def _bounds(entry: Measurement, sign: float) -> tuple[float, float]:
    """Return the ends of the interval, the better one first; the value twice if it has none."""
    low = entry.value if entry.low is None else entry.low
    high = entry.value if entry.high is None else entry.high
    ends = sorted((sign * low, sign * high))
    return ends[0], ends[1]
