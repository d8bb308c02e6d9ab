"""Rows of one table that tell of the same deed, under a heading that names no method."""

from typing import NamedTuple

from treadle.page.numbers import plain
from treadle.page.scores import ProtocolTable, Row
from treadle.page.sources import Run, input_of, parents_of
from treadle.page.wording import capital, last_part, listed, spaced

__all__ = [
    "Group",
    "common_parts",
    "groups_of",
    "names_in",
    "other_settings",
    "own_name",
    "own_parts",
]

_GIVEN = "As given"


class Group(NamedTuple):
    """Models to which the same was done, the best first."""

    heading: str
    rows: list[Row]
    is_given: bool
    """Whether nothing was done to them here."""
    is_joined: bool
    """Whether each was made from several models."""


def groups_of(table: ProtocolTable) -> list[Group]:
    """Return the rows by what was done: models as they were given first, then the best first."""
    several = len({frozenset(row.origins) for row in table.rows if row.makers}) > 1
    found: dict[tuple[str, ...], list[Row]] = {}
    for row in table.rows:
        found.setdefault(_deeds(row, table, several), []).append(row)
    groups = [
        Group(
            _heading(deeds),
            rows,
            not rows[0].makers,
            rows[0].is_joined,
        )
        for deeds, rows in found.items()
    ]
    return sorted(groups, key=lambda group: not group.is_given)  # within: as the table ranks them


def _deeds(row: Row, table: ProtocolTable, several: bool) -> tuple[str, ...]:
    """Return what was done to the model of a row, one after the other.

    What was done to each of several models before they became one is theirs to say.
    """
    if not row.makers:
        return (_GIVEN,)
    joins = [n for n, run in enumerate(row.makers) if parents_of(run.result)]
    if joins:
        read = parents_of(row.makers[joins[-1]].result)
        names = listed(sorted(last_part(entry.path) for entry in read))
        later = row.makers[joins[-1] + 1 :]
        return (f"made from {names}", *(_deed(run, row, table) for run in later))
    deeds = [_deed(run, row, table) for run in row.makers]
    first = input_of(row.makers[0].result, "model")[0]
    return (*deeds, *([f"from {last_part(first)}"] if several and first else []))


def _deed(run: Run, row: Row, table: ProtocolTable) -> str:
    """Return what a run did; where it does not say so, by which amount."""
    if run.result.deed:
        return run.result.deed
    amount = row.made(table.amount) if run is row.makers[-1] else None
    return run.result.command if amount is None else f"{spaced(table.amount)} {plain(amount, 3)}"


def _heading(deeds: tuple[str, ...]) -> str:
    *most, last = deeds
    text = f"{', then '.join(most)} {last}" if last.startswith("from ") else ", then ".join(deeds)
    return capital(text)


def own_name(row: Row) -> str:
    """Return what a row is called among its like: what joined several models, by that alone."""
    if row.is_joined:
        last = row.makers[-1].result
        return last.method or last.action
    return row.method


def names_in(rows: list[Row]) -> list[str]:
    """Return what tells the rows of a group apart: the method, and settings where it has several.

    The plainest of them goes by the method alone.
    """
    found = []
    for row in rows:
        alike = [other for other in rows if own_name(other) == own_name(row)]
        common = set.intersection(*(set(own_parts(other)) for other in alike))
        own = [part for part in own_parts(row) if part not in common]
        plainest = min(len([p for p in own_parts(other) if p not in common]) for other in alike)
        first = next(o for o in alike if len(set(own_parts(o)) - common) == plainest)
        found.append(own_name(row) if row is first else ", ".join([own_name(row), *own]))
    return found


def own_parts(row: Row) -> list[str]:
    """Return the settings that tell a row from others: of what joined models, without theirs."""
    parts = row.parts[-2:] if row.is_joined else row.parts
    return list(dict.fromkeys(part for found in parts for part in found))


def common_parts(rows: list[Row]) -> list[str]:
    """Return the settings that all of several rows have."""
    if len(rows) < 2:
        return []
    return [part for part in own_parts(rows[0]) if all(part in own_parts(row) for row in rows)]


def other_settings(row: Row, amount: str) -> list[str]:
    """Return the settings that tell a row from others, without the one that is the amount."""
    own = f"{spaced(amount)} "
    return [part for part in own_parts(row) if not part.startswith(own)]
