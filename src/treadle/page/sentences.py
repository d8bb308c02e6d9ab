"""What a table of scores shows, in plain sentences with numbers."""

from typing import NamedTuple

from treadle.page.gains import Gain, Speed, gains_of
from treadle.page.groups import Group, groups_of, names_in, own_name, own_parts
from treadle.page.numbers import bytes_unit, plain, share, spoken
from treadle.page.parents import Ancestor, Beaten, beaten, listed_parents, parents_in
from treadle.page.scores import ProtocolTable, Row, Section, is_sound, same_amount
from treadle.page.sources import Run
from treadle.page.wording import capital, listed, shortened, spaced

__all__ = ["of_scores"]

_MOST_NAMED = 5
"""Models that a sentence names."""
_ALIKE = 0.02
"""Ratios nearer to 1 are told as the same."""


class _Told(NamedTuple):
    """A table, and what its sentences need of it."""

    table: ProtocolTable
    score: str
    """What the numbers are."""
    data: str
    """On which examples they were taken, and which way is better; both are said once."""
    better: str
    gains: dict[int, Gain]
    """By the identity of a row."""
    speed: Speed | None


def of_scores(section: Section, table: ProtocolTable, runs: list[Run]) -> list[str]:
    """Return what a table shows: what was made by most methods first.

    Then what was made of several models, what a model costs and gains in another form, and what
    became of the bytes.
    """
    gains, speed = gains_of(table, runs)
    basis = "" if table.basis == "measured" else f" ({table.basis})"
    told = _Told(
        table,
        f"{spaced(table.score)}{basis}",
        f" on {section.data}" if section.data else "",
        f"{table.better} is better" if table.better != "neither" else "",
        {id(row): gain for row, gain in zip(table.rows, gains, strict=True)},
        speed,
    )
    groups = groups_of(table)
    given = [group for group in groups if group.is_given]
    made = sorted((g for g in groups if not g.is_given and not g.is_joined), key=_fullness)
    said = [_of_group(group, told) for group in made]
    said += [_of_joined(group, told) for group in groups if group.is_joined]
    if said:
        data = f"{told.score}{told.data}" if told.data else ""
        said[0] += _remark("; ".join(filter(None, [data, told.better])))
    else:
        said = [_of_given(group, told) for group in given]
    said += [text for group in [*given, *made] for text in _of_forms(group, told)]
    return said + _of_sizes(made[:1], told)


def _remark(text: str) -> str:
    return f" {capital(text)}." if text else ""


def _fullness(group: Group) -> int:
    return -sum(is_sound(row.score) for row in group.rows)


def _scores(group: Group) -> str:
    """Return the group's scores as a sentence lists them: the best ones, the last and controls.

    What is not finite is said too: a ruined model is a finding. Another form of a model has a
    sentence of its own.
    """
    firsts = {id(row) for row in _plainest(group).values()}
    pairs = zip(group.rows, names_in(group.rows), strict=True)
    told = [(row, shortened(name)) for row, name in pairs if id(row) in firsts]
    middle = []
    if len(told) > _MOST_NAMED:
        middle = [pair for pair in told[_MOST_NAMED - 2 : -1] if not pair[0].is_control]
    words = [
        f"{spoken(row.score.value)} with {name}{' (a control)' * row.is_control}"
        for row, name in told
        if (row, name) not in middle
    ]
    return listed(words) + (f" ({len(middle)} more in between)" if middle else "")


def _plainest(group: Group) -> dict[str, Row]:
    """Return for each model of the group the row with the fewest settings."""
    found: dict[str, Row] = {}
    for row in sorted(group.rows, key=lambda row: sum(map(len, row.parts))):
        found.setdefault(row.model_hash, row)
    return found


def _of_group(group: Group, told: _Told) -> str:
    """Return what one deed cost by each method, and what the model had before."""
    hashes = {one for row in group.rows for one in row.origins}
    before = [
        row
        for row in told.table.baselines
        if is_sound(row.score) and not row.makers and row.model_hash in hashes
    ]
    text = f"{group.heading}: {told.score} {_scores(group)}"
    return f"{text}; {spoken(before[0].score.value)} before." if before else f"{text}."


def _of_given(group: Group, told: _Told) -> str:
    return f"{capital(told.score)}{told.data}: {_scores(group)}.{_remark(told.better)}"


def _of_joined(group: Group, told: _Told) -> str:
    """Return what became of several models, and which of them it beats."""
    parents = parents_in(told.table, group.rows[0])
    text = f"Made from {listed_parents(parents)}: {told.score} {_scores(group)}"
    if any(parent.row is None for parent in parents):
        return f"{text}."
    pairs = zip(group.rows, names_in(group.rows), strict=True)
    won = {shortened(name): (row, beaten(row, parents)) for row, name in pairs}
    beating = _beating({name: found for name, (_, found) in won.items()}, len(parents))
    return f"{text}; {beating}.{_unequal(told.table, [row for row, _ in won.values()], parents)}"


def _unequal(table: ProtocolTable, rows: list[Row], parents: list[Ancestor]) -> str:
    """Say by how much less (or more) was done to merged models than to those they are set beside.

    Zeros that only some of several models have are lost where they become one, which is why it
    may beat them.
    """
    name = table.amount
    known = [one.row.made(name) for one in parents if one.row is not None]
    before = [amount for amount in known if amount is not None]
    now = [amount for amount in (row.made(name) for row in rows) if amount is not None]
    if not name or len(before) < len(parents) or len(now) < len(rows):
        return ""
    if all(same_amount(one, other) for one in now for other in before):
        return ""
    ours, theirs = (
        listed(dict.fromkeys(plain(one, 3) for one in found)) for found in (now, before)
    )
    return f" {capital(spaced(name))} is {ours} instead of {theirs}."


def _beating(won: dict[str, list[Beaten]], num_parents: int) -> str:
    """Say which models beat all of their parents, which do so surely, and which beat none."""
    both, neither = ("both", "neither") if num_parents == 2 else (f"all {num_parents}", "none")
    best = {name: found for name, found in won.items() if len(found) == num_parents}
    sure = [name for name, found in best.items() if _is_sure(found)]
    unsure = [name for name in best if name not in sure]
    none = [name for name, found in won.items() if not found]
    words = [f"{listed(sure)} {_beat(sure)} {both}"] if sure else []
    if unsure:
        words.append(
            f"{listed(unsure)} {_beat(unsure)} {both}, by less than the intervals can tell"
        )
    words += [f"{listed(none)} {_beat(none)} {neither}"] if none else []
    return listed(words) if words else f"none beats {both}"


def _is_sure(found: list[Beaten]) -> bool:
    return all(one.is_clear for one in found)


def _beat(names: list[str]) -> str:
    return "beats" if len(names) == 1 else "beat"


def _of_forms(group: Group, told: _Told) -> list[str]:
    """Return what the same model costs and gains in another form, such as 8-bit weights."""
    firsts = _plainest(group)
    said = []
    for row in group.rows:
        first = firsts[row.model_hash]
        if first is row or not is_sound(row.score) or not is_sound(first.score):
            continue
        own = [part for part in own_parts(row) if part not in own_parts(first)]
        now, before = (spoken(one.score.value) for one in (row, first))
        text = f"Asked with {', '.join(own)}, {shortened(own_name(row))} has {told.score} {now}"
        text += f" instead of {before}"
        gained = _gained(told.gains[id(row)], told.gains[id(first)], told.speed)
        said.append(f"{', '.join([text, *gained])}.")
    return said


def _gained(gain: Gain, before: Gain, speed: Speed | None) -> list[str]:
    """Return the ratios of memory and speed of two forms, where both are known."""
    found = []
    if gain.held_bytes and before.held_bytes:
        unit, size = bytes_unit([before.held_bytes])
        sizes = [f"{plain(one / size, 2)} {unit}" for one in (gain.held_bytes, before.held_bytes)]
        found.append(f"{sizes[0]} of weights in memory instead of {sizes[1]}")
    if speed and gain.speed and before.speed and before.speed.value > 0:
        ratio = gain.speed.value / before.speed.value
        found.append(f"{plain(ratio, 2)} times the {speed.unit or spaced(speed.name)}")
    return found


def _of_sizes(made: list[Group], told: _Told) -> list[str]:
    """Return what became of the bytes of the best model to which most was done."""
    rows = [r for group in made for r in group.rows if is_sound(r.score) and not r.is_control]
    given = [row for row in told.table.baselines if not row.makers]
    before = told.gains[id(given[0])].size_bytes if given else None
    gain = told.gains[id(rows[0])] if rows else None
    if gain is None or not gain.size_bytes or not before:
        return []
    unit, size = bytes_unit([before, gain.size_bytes])
    now, then = (f"{plain(one / size, 3)} {unit}" for one in (gain.size_bytes, before))
    zeros = f", {share(gain.zero_fraction)} of it zeros" if gain.zero_fraction else ""
    text = f"The model of {rows[0].method} takes {now} on disk"
    if abs(gain.size_bytes / before - 1) >= _ALIKE:
        return [f"{text} instead of {then}{zeros}."]
    skipped = "which gains something where they are skipped or packed"
    return [f"{text}, as before{zeros}, {skipped}."] if zeros else []
