"""Where a method loses: to a control, or to a simpler method, under equal conditions."""

from collections.abc import Iterator
from typing import NamedTuple

from treadle.core.result import Measurement
from treadle.page.scores import ProtocolTable, Row, is_sound, same_amount
from treadle.page.wording import count, listed

__all__ = ["Loss", "comparisons", "find_losses", "has_comparisons", "is_clearly_better"]

_CHEAPER = 0.8
"""Share of the processor time up to which a method that reads the same inputs counts as simpler."""
_CONTROL = "the control"


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


def find_losses(table: ProtocolTable) -> list[Loss]:
    """Return every case in which a method loses.

    It does not clearly beat a control at the same amount, or the interval of a simpler method lies
    wholly on the better side.
    """
    judged = (_judge(*contest) for contest in _contests(table))
    found = [loss for loss in judged if loss]
    return sorted(found, key=lambda loss: (loss.loser.made(table.amount) or 0.0, loss.loser.label))


def comparisons(tables: list[ProtocolTable]) -> str:
    """Return in a sentence how many comparisons were made, and what they show without a loss."""
    reasons = [reason for table in tables for _, _, reason in _contests(table)]
    if not reasons:
        return _nothing(tables)
    with_control = reasons.count(_CONTROL)
    with_simpler = len(reasons) - with_control
    made = f"{count(len(reasons), 'comparison')} {'was' if len(reasons) == 1 else 'were'} made"
    shares = [(with_control, "a control"), (with_simpler, "a simpler or cheaper method")]
    kinds = listed(f"{number:,} with {kind}" for number, kind in shares if number)
    if any(find_losses(table) for table in tables):
        return f"{made}: {kinds}."
    shown = ["the method clearly beats the control"] * bool(with_control)
    shown += ["the simpler or cheaper method does not clearly win"] * bool(with_simpler)
    return (
        f"No case found in these results: {made} ({kinds}), within one protocol, at one amount "
        f"and with equal settings; in each, {' or '.join(shown)}."
    )


def has_comparisons(table: ProtocolTable) -> bool:
    """Whether a method was measured beside something that it should beat or match."""
    return any(True for _ in _contests(table))


def _nothing(tables: list[ProtocolTable]) -> str:
    """Say why no comparison was made, and deny no control or method that was measured."""
    made = [[row for row in table.rows if row.makers] for table in tables]
    has_other = any(
        row.makers[-1].is_control
        or (row.method != other.method and same_amount(*_amounts(row, other, table.amount)))
        for table, rows in zip(tables, made, strict=True)
        for row in rows
        for other in rows
    )
    if has_other:
        return (
            "Nothing to compare: no method was measured beside a control, or beside a simpler or "
            "cheaper method, with a finite score under the same protocol at the same amount with "
            "equal settings."
        )
    return (
        "Nothing to compare: no control and no other method was measured under the same protocol "
        "at the same amount."
    )


def _amounts(first: Row, second: Row, amount: str) -> tuple[float | None, float | None]:
    return first.made(amount), second.made(amount)


def _contests(table: ProtocolTable) -> Iterator[tuple[Row, Row, str]]:
    """Yield each method, what it should beat or match under equal conditions, and why it should.

    Nothing is lost to a score that is not finite.
    """
    for loser in table.rows:
        for winner in table.rows:
            reason = _reason(loser, winner)
            if reason and is_sound(winner.score) and _comparable(loser, winner, table.amount):
                yield loser, winner, reason


def _reason(loser: Row, winner: Row) -> str:
    """Say why `loser` should beat `winner`; empty if nothing says so."""
    if not loser.makers or not winner.makers or loser.method == winner.method:
        return ""
    if loser.makers[-1].is_control:
        return ""
    if winner.makers[-1].is_control:
        return _CONTROL
    theirs, ours = winner.makers[-1].result, loser.makers[-1].result
    if len(theirs.inputs) < len(ours.inputs):
        names = listed(f"the {entry.name}" for entry in theirs.inputs)
        return f"a simpler method, which reads only {names}"
    reads_alike = len(theirs.inputs) == len(ours.inputs)
    is_cheaper = (
        not winner.makers[-1].is_resumed  # a part of its cost says nothing
        and theirs.cpu_seconds <= _CHEAPER * ours.cpu_seconds
    )
    return "a cheaper method" if reads_alike and is_cheaper else ""


def _comparable(first: Row, second: Row, amount: str) -> bool:
    """Whether both models were made from the same one, by as much, with equal common settings."""
    left, right = (row.makers for row in (first, second))
    if [run.result.command for run in left] != [run.result.command for run in right]:
        return False
    if first.origins != second.origins:
        return False
    if not same_amount(first.made(amount), second.made(amount)):
        return False
    ours, others = left[-1].result.settings, right[-1].result.settings
    common = [key for key in ours if key in others and key != "method"]
    return all(ours[key] == others[key] for key in common if not isinstance(ours[key], dict))


def is_clearly_better(row: Row, other: Row) -> bool:
    """Whether the row's interval lies wholly on the better side of the other's."""
    sign = -1.0 if row.score.better == "higher" else 1.0
    ours, theirs = (_bounds(entry, sign) for entry in _compared(row, other))
    return ours[1] < theirs[0]


def _judge(loser: Row, winner: Row, reason: str) -> Loss | None:
    pair = _compared(loser, winner)
    if not is_sound(pair[0]):
        return Loss(loser, winner, pair, False, reason)
    sign = -1.0 if loser.score.better == "higher" else 1.0
    ours, theirs = (_bounds(entry, sign) for entry in pair)
    if theirs[1] < ours[0]:
        return Loss(loser, winner, pair, True, reason)
    if reason == _CONTROL and not ours[1] < theirs[0]:
        return Loss(loser, winner, pair, False, reason)
    return None


def _compared(loser: Row, winner: Row) -> tuple[Measurement, Measurement]:
    """Return the paired comparisons if both were made with one baseline, else the scores.

    A comparison pairs examples, so its interval is free of what makes some examples harder.
    """
    ours, theirs = loser.comparison, winner.comparison
    is_paired = loser.is_sound and winner.is_sound and loser.baseline_hash == winner.baseline_hash
    if ours and theirs and is_paired:
        return ours, theirs
    return loser.score, winner.score


def _bounds(entry: Measurement, sign: float) -> tuple[float, float]:
    """Return the ends of the interval, the better one first; the value twice if it has none."""
    low = entry.value if entry.low is None else entry.low
    high = entry.value if entry.high is None else entry.high
    ends = sorted((sign * low, sign * high))
    return ends[0], ends[1]
