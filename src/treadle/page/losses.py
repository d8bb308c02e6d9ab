"""Where a method loses: to a control, a simpler method, or what it was made from."""

from collections.abc import Iterator
from typing import NamedTuple

from treadle.core.result import Measurement
from treadle.page.pairs import bounds, compared_in
from treadle.page.parents import is_surely_better, parents_in
from treadle.page.scores import ProtocolTable, Row, is_sound, same_amount
from treadle.page.wording import count, listed

__all__ = ["Loss", "comparisons", "find_losses", "has_comparisons"]

_CHEAPER = 0.8
"""Share of the processor time up to which a method that reads the same inputs counts as simpler."""
_CONTROL = "the control"
_PARENT = "a model that it was made from"


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
    wholly on the better side; or one of the models that it was made from is clearly better.
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
    with_parent = reasons.count(_PARENT)
    with_simpler = len(reasons) - with_control - with_parent
    made = f"{count(len(reasons), 'comparison')} {'was' if len(reasons) == 1 else 'were'} made"
    shares = [
        (with_control, "a control"),
        (with_simpler, "a simpler or cheaper method"),
        (with_parent, "the best model that one was made from"),
    ]
    kinds = listed(f"{number:,} with {kind}" for number, kind in shares if number)
    if any(find_losses(table) for table in tables):
        return f"{made}: {kinds}."
    shown = ["the method clearly beats the control"] * bool(with_control)
    shown += ["the simpler or cheaper method does not clearly win"] * bool(with_simpler)
    shown += ["no model is clearly worse than those it was made from"] * bool(with_parent)
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
        if (parent := _best_parent(table, loser)) is not None:
            yield loser, parent, _PARENT


def _best_parent(table: ProtocolTable, row: Row) -> Row | None:
    """Return the best of several models that one was made from, if all were measured like it."""
    found = [one.row for one in parents_in(table, row)]
    if row.is_control or any(one is None or not is_sound(one.score) for one in found):
        return None
    ids = {id(one) for one in found}
    return next((one for one in table.rows if id(one) in ids), None)


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


def _judge(loser: Row, winner: Row, reason: str) -> Loss | None:
    pair = compared_in(loser, winner)
    if not is_sound(pair[0]):
        return Loss(loser, winner, pair, False, reason)
    if reason == _PARENT:  # example by example where they are kept, as beating one is judged
        is_lost = is_surely_better(winner, loser)
        return Loss(loser, winner, pair, True, reason) if is_lost else None
    sign = -1.0 if loser.score.better == "higher" else 1.0
    ours, theirs = (bounds(entry, sign) for entry in pair)
    if theirs[1] < ours[0]:
        return Loss(loser, winner, pair, True, reason)
    if reason == _CONTROL and not ours[1] < theirs[0]:
        return Loss(loser, winner, pair, False, reason)
    return None
