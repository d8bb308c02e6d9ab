"""What the template shows: every number already in words, every figure already drawn."""

from typing import NamedTuple

from treadle.core.result import Figure, Measurement, Result
from treadle.page import numbers
from treadle.page.command import repeat_command
from treadle.page.figures import draw, num_left_out
from treadle.page.findings import Findings, findings
from treadle.page.groups import other_settings, own_name
from treadle.page.held import HeldTable, held_tables
from treadle.page.losses import Loss, comparisons, find_losses
from treadle.page.measures import MeasureTable, loose_tables, measure_tables
from treadle.page.scores import ProtocolTable, Row, Section, sections
from treadle.page.sources import Run
from treadle.page.summary import summary
from treadle.page.tables import ScoreTable, score_table
from treadle.page.tradeoff import CLOSEUP, closeup, plot
from treadle.page.wording import (
    SHORT_HASH,
    Fact,
    count,
    facts,
    last_part,
    listed,
    protocol_facts,
    spaced,
)
from treadle.verbs import VERBS

__all__ = ["Content", "content"]


class LossView(NamedTuple):
    """One case of "where it loses" in words."""

    amount: str
    loser: str
    loser_score: str
    verdict: str
    winner: str
    winner_score: str
    measure: str


class Plot(NamedTuple):
    """A picture, and where it has one, the same for a phone."""

    wide: str
    narrow: str


class PlottedTable(NamedTuple):
    """A table and, where rows can be compared, its plots as SVG (else empty)."""

    table: ScoreTable
    plot: Plot
    closeup: Plot
    remark: str
    """What the close-up shows, and which models it leaves out."""
    left_out: str
    """Models that no picture can show."""


class SectionView(NamedTuple):
    """One task under one protocol."""

    heading: str
    explained: str
    """What the task does, in its own words."""
    protocol: list[Fact]
    protocol_hash: Fact
    tables: list[PlottedTable]
    shared: list[tuple[str, list[Fact]]]
    """Verb and the settings that all its runs here share."""
    others: list[MeasureTable]


class InputView(NamedTuple):
    """One thing that a run read."""

    name: str
    path: str
    content_hash: Fact


class RunView(NamedTuple):
    """One result: its figures, and where its numbers came from."""

    heading: str
    subject: str
    figures: list[tuple[str, str]]
    settings: list[Fact]
    inputs: list[InputView]
    output: str
    made_hash: Fact
    fingerprint: Fact
    command: str
    cost: list[Fact]
    measurements: list[MeasureTable]
    protocol: list[Fact]
    versions: list[Fact]
    hardware: list[Fact]
    notes: list[str]


class Content(NamedTuple):
    """The whole page."""

    findings: Findings
    tables: list[HeldTable]
    """Those that results hold themselves, where one tells of many runs."""
    sections: list[SectionView]
    measures: list[MeasureTable]
    """Measurements without a protocol of runs that no table above accounts for."""
    pictures: list[tuple[str, str]]
    comparisons: str
    """How many comparisons were looked through for losses."""
    losses: list[LossView]
    notes: list[tuple[str, str]]
    """What runs noted, and which did."""
    summary: str
    runs: list[RunView]


def content(runs: list[Run]) -> Content:
    """Put everything that the runs tell into words and figures."""
    found = sections(runs)
    tables = [table for section in found for table in section.tables]
    told = {id(run) for section in found for run in section.evaluations}
    told |= {id(run) for table in tables for row in table.rows for run in row.makers}
    loose = [run for run in runs if id(run) not in told]
    pictures = [(_caption(f), draw(f, "")) for run in runs for f in run.result.figures if _shows(f)]
    return Content(
        findings=findings(runs, found, loose),
        tables=held_tables(runs),
        sections=[
            _section(runs, section, f"s{number}", heading)
            for number, (section, heading) in enumerate(zip(found, _headings(found), strict=True))
        ],
        measures=loose_tables(runs, loose),
        pictures=pictures,
        comparisons=comparisons(tables),
        losses=_losses(tables),
        notes=_notes(runs),
        summary=summary(runs, found),
        runs=[_run(run, f"r{number}") for number, run in enumerate(runs)],
    )


def _shows(figure: Figure) -> bool:
    return figure.kind == "picture"


def _notes(runs: list[Run]) -> list[tuple[str, str]]:
    """Return each note once, with the runs that have it."""
    found: dict[str, list[str]] = {}
    for run in runs:
        for note in dict.fromkeys(run.result.notes):
            found.setdefault(note, []).append(_place(run))
    return [(note, listed(where)) for note, where in found.items()]


def _place(run: Run) -> str:
    return last_part(run.result.output) or _heading(run.result)


def _protocol(section: Section) -> list[Fact]:
    protocol = section.evaluations[0].result.protocol or {}
    return protocol_facts({name: value for name, value in protocol.items() if name != "hash"})


def _headings(found: list[Section]) -> list[str]:
    """Return the task and its data, and where that is not enough, in what the protocols differ."""
    names = [
        spaced(section.task).capitalize() + (f" on {section.data}" if section.data else "")
        for section in found
    ]
    headings = []
    for section, name in zip(found, names, strict=True):
        alike = [_protocol(o) for o, other in zip(found, names, strict=True) if other == name]
        own = [fact for fact in _protocol(section) if any(fact not in facts for facts in alike)]
        shown = ", ".join(f"{fact.name} {fact.text}" for fact in own[:3])
        headings.append(f"{name}: {shown}" if shown else name)
    return headings


def _section(runs: list[Run], section: Section, key: str, heading: str) -> SectionView:
    others: dict[str, list[Measurement]] = {}
    for row, entry in section.others:
        name = ", ".join([row.model, *row.parts[-1]])
        others.setdefault(name, []).append(entry)
    return SectionView(
        heading=heading,
        explained=_explained(section.evaluations[0].result),
        protocol=_protocol(section),
        protocol_hash=_hash(section.protocol),
        tables=[
            _plotted(runs, table, f"{key}t{number}") for number, table in enumerate(section.tables)
        ],
        shared=[
            (verb, [Fact(spaced(name), text) for name, text in settings.items() if text])
            for verb, settings in section.shared.items()
            if any(settings.values())
        ],
        others=measure_tables("Other measures", list(others.items())),
    )


def _explained(result: Result) -> str:
    """Return what a method does in the first sentence of its help; empty where it is unknown."""
    verb = VERBS.get(result.verb)
    table = None if verb is None else verb.methods()
    if table is None or result.action or result.method not in table.table:
        return ""
    return str(table[result.method].summary())


def _plotted(runs: list[Run], table: ProtocolTable, key: str) -> PlottedTable:
    near = closeup(table)
    whole = Plot(plot(table, key), plot(table, f"{key}n", is_narrow=True))
    words = score_table(table, runs)
    lost = sum(not numbers.is_drawable(row.score.value) for row in table.rows)
    left_out = f"{count(lost, 'model')} without a finite score not drawn" if lost else ""
    if not near:
        return PlottedTable(words, whole, Plot("", ""), "", left_out)
    close = Plot(plot(table, f"{key}c", near), plot(table, f"{key}cn", near, is_narrow=True))
    gone = len(table.rows) - len(near)
    remark = f"scores up to {CLOSEUP:g} times the best, without {count(gone, 'worse model')}"
    return PlottedTable(words, whole, close, remark, left_out)


def _losses(tables: list[ProtocolTable]) -> list[LossView]:
    found = [(loss, table) for table in tables for loss in find_losses(table)]
    entries = [entry for loss, _ in found for entry in loss.compared]
    powers = _powers(entries)
    return [_loss(loss, table, powers) for loss, table in found]


def _powers(entries: list[Measurement]) -> bool:
    return numbers.powers_for(end for e in entries for end in (e.value, e.low, e.high))


def _loss(loss: Loss, table: ProtocolTable, powers: bool) -> LossView:
    amount = loss.loser.made(table.amount)
    at = "" if amount is None else f"{spaced(table.amount)} {numbers.plain(amount, 3)}"
    mine, theirs = loss.compared
    decimals = numbers.score_decimals(mine.value, mine.low, mine.high)
    verdict = "is beaten by" if loss.is_clear else "does not clearly beat"
    return LossView(
        amount=at,
        loser=_named(loss.loser, table),
        loser_score=numbers.interval(mine.value, mine.low, mine.high, decimals, powers),
        verdict=f"{verdict} {loss.reason}",
        winner=_named(loss.winner, table),
        winner_score=numbers.interval(theirs.value, theirs.low, theirs.high, decimals, powers),
        measure=" ".join(filter(None, [spaced(mine.name), _basis_note(mine)])),
    )


def _named(row: Row, table: ProtocolTable) -> str:
    return ", ".join([own_name(row), *other_settings(row, table.amount)])


def _basis_note(entry: Measurement) -> str:
    return "" if entry.basis == "measured" else f"({entry.basis})"


def _heading(result: Result) -> str:
    return f"{result.command} {result.method}".strip()


def _hash(value: str) -> Fact:
    return Fact("hash", value[:SHORT_HASH], value)


def _run(run: Run, key: str) -> RunView:
    result = run.result
    settings = {name: value for name, value in result.settings.items() if name != "method"}
    return RunView(
        heading=_heading(result),
        subject=last_part(result.output),
        figures=[
            (_caption(figure), draw(figure, f"{key}f{number}"))
            for number, figure in enumerate(result.figures)
            if not _shows(figure)
        ],
        settings=[*facts(settings), Fact("seed", str(result.seed))],
        inputs=[InputView(e.name, e.path, _hash(e.content_hash)) for e in result.inputs],
        output=result.output,
        made_hash=_hash(run.made_hash),
        fingerprint=_hash(result.fingerprint),
        command=repeat_command(run),
        cost=_cost(run),
        measurements=measure_tables("Measurements", [("Value", result.measurements)]),
        protocol=protocol_facts(result.protocol or {}),
        versions=[Fact(name, text) for name, text in result.versions.items()],
        hardware=facts(result.hardware),
        notes=result.notes,
    )


def _caption(figure: Figure) -> str:
    gone = num_left_out(figure)
    remarks: list[str] = [figure.basis] if figure.basis != "measured" else []
    remarks += [f"{count(gone, 'value')} not finite, not drawn"] if gone else []
    return f"{figure.title} ({'; '.join(remarks)})" if remarks else figure.title


def _cost(run: Run) -> list[Fact]:
    result, part = run.result, " (last part only)" * run.is_resumed
    sizes = [result.peak_memory_bytes, *result.bytes.values()]
    texts = []
    for size in sizes:
        unit, scale = numbers.bytes_unit([size])
        texts.append(f"{numbers.plain(size / scale, 3)} {unit}")
    return [
        Fact("started", result.started.replace("T", " ").replace("+00:00", " UTC")),
        Fact("clock", numbers.clock(result.seconds) + part),
        Fact("processor", numbers.clock(result.cpu_seconds) + part),
        Fact("peak memory", texts[0] + part),
        *(
            Fact(f"{spaced(name)} bytes", text)
            for name, text in zip(result.bytes, texts[1:], strict=True)
        ),
    ]
