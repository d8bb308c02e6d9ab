"""Tables that results hold, in words."""

from typing import NamedTuple

from treadle.core.result import Column, Entry, Table
from treadle.page import numbers
from treadle.page.sources import Run

__all__ = ["HeldTable", "held_tables"]

_SIZE = "bytes"
_VERDICTS = ("better", "worse")


class HeldColumn(NamedTuple):
    """The head of a column."""

    name: str
    remark: str
    """Unit, and which way is better."""
    is_number: bool


class HeldEntry(NamedTuple):
    """One place of the table in words; the text may end in an interval in brackets."""

    text: str
    note: str
    style: str
    """better or worse where the entry says so, or a number that has an interval on one side."""
    is_number: bool


class HeldTable(NamedTuple):
    """One table."""

    title: str
    basis: str
    columns: list[HeldColumn]
    rows: list[list[HeldEntry]]
    notes: list[str]
    losses: list[str] | None
    """None where nothing was compared."""
    has_intervals: bool


def held_tables(runs: list[Run]) -> list[HeldTable]:
    """Return the tables of all runs, as their results hold them."""
    return [_table(table) for run in runs for table in run.result.tables]


def _table(table: Table) -> HeldTable:
    columns = [[row[place] for row in table.rows] for place in range(len(table.columns))]
    shown = [_column(head, entries) for head, entries in zip(table.columns, columns, strict=True)]
    rows = [list(row) for row in zip(*(entries for _, entries in shown), strict=True)]
    intervals = any(entry.low is not None for row in table.rows for entry in row)
    heads = [head for head, _ in shown]
    return HeldTable(table.title, table.basis, heads, rows, table.notes, table.losses, intervals)


def _column(head: Column, entries: list[Entry]) -> tuple[HeldColumn, list[HeldEntry]]:
    values = [float(e.value) for e in entries if isinstance(e.value, int | float)]
    unit, scale = numbers.bytes_unit(values) if head.unit == _SIZE else (head.unit, 1.0)
    powers = numbers.powers_for(values) if scale == 1.0 else None
    good = f"{head.better} is better" if head.better != "neither" else ""
    remark = ", ".join(filter(None, [unit, good]))
    found = [_entry(head, entry, scale, powers) for entry in entries]
    return HeldColumn(head.name, remark, bool(values)), found


def _entry(head: Column, entry: Entry, scale: float, powers: bool | None) -> HeldEntry:
    if entry.value is None:
        return HeldEntry("–", entry.note, "", False)
    if isinstance(entry.value, str):
        style = entry.value if entry.value in _VERDICTS else ""
        return HeldEntry(entry.value, entry.note, style, False)
    value = float(entry.value) / scale
    if entry.low is None or entry.high is None:
        return HeldEntry(numbers.plain(value, powers=powers), entry.note, "", True)
    low, high = entry.low / scale, entry.high / scale
    decimals = numbers.score_decimals(value, low, high)
    text = numbers.interval(value, low, high, decimals, powers)
    return HeldEntry(text, entry.note, _style(head, entry), True)


def _style(head: Column, entry: Entry) -> str:
    """Return which side of "no difference" an interval lies on, where the column has one."""
    low, high, neutral = entry.low, entry.high, head.neutral
    if low is None or high is None or neutral is None or head.better == "neither":
        return ""
    if low <= neutral <= high:
        return ""
    return "better" if (low > neutral) == (head.better == "higher") else "worse"
