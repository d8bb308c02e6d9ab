"""What was found, in plain sentences with numbers; the first one leads the page."""

from typing import NamedTuple

from treadle.core.result import Entry, Measurement, Table
from treadle.page.losses import find_losses, has_comparisons
from treadle.page.numbers import bytes_unit, plain, spoken
from treadle.page.scores import ProtocolTable, Section
from treadle.page.sentences import of_scores
from treadle.page.sources import Run
from treadle.page.wording import capital, last_part, listed, spaced

__all__ = ["Findings", "findings"]

_MOST_MEASURES = 3
_LONGEST_NOTE = 60
_BYTES = "bytes"
_DEEDS = ("read", "written")
"""Units that say what was done to the things that a measurement counts."""
_SEE = "“Where it loses, and to what”"


class Findings(NamedTuple):
    """What a page says first."""

    lead: str
    more: list[str]


def findings(runs: list[Run], found: list[Section], loose: list[Run]) -> Findings:
    """Say what the results show: what they hold themselves, then what the fullest table shows.

    Where nothing was scored, it is what was made and measured.

    Args:
        runs: All results.
        found: Scores by task and protocol.
        loose: Runs whose measurements no table ranks.
    """
    tables = [(section, table) for section in found for table in section.tables]
    tables.sort(key=lambda one: -len(one[1].rows))
    said = [sentence for run in runs for table in run.result.tables for sentence in _of_held(table)]
    said += [sentence for section, table in tables for sentence in of_scores(section, table, runs)]
    said += _of_losses([table for _, table in tables])
    if not said:
        said = [*_of_unmeasured(runs), *_of_loose(loose)]
    return Findings(said[0], said[1:]) if said else Findings("", [])


def _of_held(table: Table) -> list[str]:
    """Return the best and the worst row of a table that a result holds, beside its baseline."""
    places = [n for n, column in enumerate(table.columns) if column.better != "neither"]
    if not places:
        return []
    head = table.columns[places[0]]
    told: list[tuple[float, str, bool]] = []
    for row in table.rows:
        value = row[places[0]].value
        if isinstance(value, int | float):
            is_baseline = any(entry.note == "baseline" for entry in row[: places[0]])
            told.append((float(value), _label(table, row, places[0]), is_baseline))
    ranked = sorted(
        (one for one in told if not one[2]), key=lambda one: one[0], reverse=head.better == "higher"
    )
    if not ranked:
        return []
    text = f"{table.title}: {spaced(head.name)} {spoken(ranked[0][0])} with {ranked[0][1]}"
    if len(ranked) > 1:
        text += f" is the best of {len(ranked)}, {spoken(ranked[-1][0])} with {ranked[-1][1]} the "
        text += "worst"
    before = [f"{spoken(value)} with {name} (the baseline)" for value, name, own in told if own]
    text += "".join(f"; {words}" for words in before[:1])
    lost = len(table.losses or ())
    cases = "one case" if lost == 1 else f"{lost} cases"
    return [f"{text}{f'; in {cases} a row loses: see {_SEE}' if lost else ''}."]


def _label(table: Table, row: list[Entry], place: int) -> str:
    """Return what tells a row from the others, of the columns before its first score."""
    words: list[str] = []
    for number, (head, entry) in enumerate(zip(table.columns[:place], row, strict=False)):
        varies = len({one[number].value for one in table.rows}) > 1
        if isinstance(entry.value, str) and varies:
            words.append(entry.value)
        elif entry.value is not None and varies:
            words.append(f"{spaced(head.name)} {plain(float(entry.value), 3)}")
    return ", ".join(words) or "the only row"


def _of_losses(tables: list[ProtocolTable]) -> list[str]:
    """Say whether a method does no better than a control or a simpler one, if that was asked."""
    lost = sum(len(find_losses(table)) for table in tables)
    if lost:
        cases = "one case" if lost == 1 else f"{lost} cases"
        return [
            f"In {cases} a method does no better than a control, or worse than a simpler method or "
            f"than what it was made from: see {_SEE}."
        ]
    if any(has_comparisons(table) for table in tables):
        return ["No method loses to a control, to a simpler method or to what it was made from."]
    return []


def _of_unmeasured(runs: list[Run]) -> list[str]:
    """Return which models were made where nobody measured them."""
    return [
        f"{capital(run.result.deed or run.result.command)}, by "
        f"{run.result.method or run.result.command}: {last_part(run.result.output)}. Its quality "
        f"was not measured."
        for run in runs
        if run.made_hash
    ]


def _of_loose(loose: list[Run]) -> list[str]:
    """Return the first numbers of each run that has nothing else to say."""
    found = []
    for run in loose:
        result = run.result
        words = [_number(entry) for entry in result.measurements[:_MOST_MEASURES]]
        if words:
            found.append(
                f"{capital(f'{result.command} {result.method}'.strip())}: {listed(words)}."
            )
    return found


def _number(entry: Measurement) -> str:
    """Return one measurement in words, with a short note."""
    unit, value = entry.unit, entry.value
    if unit.startswith(_BYTES):
        name, size = bytes_unit([abs(value)])
        unit, value = unit.replace(_BYTES, name, 1), value / size
    note = f"({entry.note})" if 0 < len(entry.note) <= _LONGEST_NOTE else ""
    if unit in _DEEDS:
        return f"{spoken(value)} {spaced(entry.name)} {unit}"
    return " ".join(filter(None, [spaced(entry.name), spoken(value), unit, note]))
