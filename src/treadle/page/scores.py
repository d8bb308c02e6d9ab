"""Scores that may stand side by side: one table for each task, protocol, score and basis."""

import math
from collections.abc import Iterator
from pathlib import PurePath
from typing import Literal, NamedTuple

from treadle.core.result import Measurement
from treadle.page.sources import Run, history_of, input_of, makers_of, models_of, parents_of
from treadle.page.wording import settings_of, spaced

__all__ = [
    "BASES",
    "ProtocolTable",
    "Row",
    "Section",
    "is_sound",
    "same_amount",
    "sections",
]

BASES: tuple[Literal["measured", "emulated", "simulated"], ...] = (
    "measured",
    "emulated",
    "simulated",
)
_SAME_AMOUNT = 0.005
_NOTHING = 5e-5
"""A ratio or difference so near to "no difference" that four decimals show none: what another order
of sums rounds otherwise is no finding, however sure it is."""


class Row(NamedTuple):
    """One model's score under one protocol."""

    evaluation: Run
    makers: tuple[Run, ...]
    """The runs that made the model, the first one first; empty where it was given."""
    score: Measurement
    comparison: Measurement | None
    """Ratio or difference to the baseline."""
    neutral: float
    is_baseline: bool
    baseline_hash: str
    model: str
    method: str
    """Methods of the makers, or the model's name."""
    parts: tuple[tuple[str, ...], ...]
    """Settings in which the models of the section differ, of each maker and of the evaluation."""

    @property
    def settings(self) -> str:
        """Return the settings in which the models of the section differ."""
        return "; ".join(filter(None, map(", ".join, self.parts)))

    @property
    def model_hash(self) -> str:
        """The content hash of the model that was evaluated."""
        return input_of(self.evaluation.result, "model")[1]

    @property
    def is_joined(self) -> bool:
        """Whether the last run that made the model made it from several."""
        return bool(self.makers) and bool(parents_of(self.makers[-1].result))

    @property
    def label(self) -> str:
        """What tells this row from the others."""
        return ", ".join(filter(None, [self.method, self.settings]))

    @property
    def verdict(self) -> str | None:
        """Whether the interval of the comparison excludes "no difference"; None if unknown.

        A score or a comparison that is not finite gives no verdict, and what the shown decimals
        cannot tell from "no difference" is none.
        """
        entry = self.comparison
        if entry is None or entry.low is None or entry.high is None or not self.is_sound:
            return None
        if entry.low <= self.neutral <= entry.high:
            return "no"
        if max(abs(end - self.neutral) for end in (entry.low, entry.high)) < _NOTHING:
            return "no"
        return "better" if (entry.low > self.neutral) == (entry.better == "higher") else "worse"

    @property
    def is_sound(self) -> bool:
        """Whether the score, and the comparison where there is one, are finite numbers."""
        return is_sound(self.score) and (self.comparison is None or is_sound(self.comparison))

    def made(self, name: str) -> float | None:
        """Return what the making runs measured as `name`, the last one first.

        What was true of one of several models need not be true of what they were made into.
        """
        for run in reversed(self.makers):
            for entry in run.result.measurements:
                if entry.name == name:
                    return entry.value
            if len(models_of(run.result)) > 1:
                break
        return None

    @property
    def is_control(self) -> bool:
        """Whether what made the model, or how it was asked, is a control."""
        made_by_control = bool(self.makers) and self.makers[-1].is_control
        return made_by_control or self.evaluation.is_control

    @property
    def origins(self) -> set[str]:
        """The content hashes of the given models that it was made from."""
        made = {run.made_hash for run in self.makers}
        read = {entry.content_hash for run in self.makers for entry in models_of(run.result)}
        return read - made


class ProtocolTable(NamedTuple):
    """The rows of one score, the best first."""

    score: str
    unit: str
    better: str
    basis: str
    rows: list[Row]
    amount: str
    """Measurement that every making run has, such as sparsity; empty if there is none."""

    @property
    def baselines(self) -> list[Row]:
        """Return the models that others were compared with, or else those that were given."""
        named = [row for row in self.rows if row.is_baseline]
        return named or [row for row in self.rows if not row.makers]


class Section(NamedTuple):
    """Everything measured by one task under one protocol."""

    task: str
    protocol: str
    evaluations: list[Run]
    tables: list[ProtocolTable]
    others: list[tuple[Row, Measurement]]
    """Measurements that no table ranks, with the row that names their model."""
    shared: dict[str, dict[str, str]]
    """Verb -> settings that all its runs here share."""

    @property
    def data(self) -> str:
        """Return the name of the examples; one protocol has the same ones, wherever they lay."""
        paths = [
            entry.path
            for run in self.evaluations
            for entry in run.result.inputs
            if entry.role == "data"
        ]
        return PurePath(min(paths, key=lambda path: (len(path), path))).name if paths else ""


def is_sound(entry: Measurement) -> bool:
    """Whether the value is finite and no end of its interval is NaN; else it can win nothing."""
    ends = (end for end in (entry.low, entry.high) if end is not None)
    return math.isfinite(entry.value) and not any(map(math.isnan, ends))


def same_amount(first: float | None, second: float | None) -> bool:
    """Whether two measured amounts are one: half a percent apart at most, or both unknown."""
    if first is None or second is None:
        return first is second
    return abs(first - second) <= _SAME_AMOUNT * max(abs(first), abs(second))


def sections(runs: list[Run]) -> list[Section]:
    """Group the scores of all runs by task and protocol; protocols are never mixed."""
    grouped: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        for protocol in dict.fromkeys(m.protocol for m in run.result.measurements if m.protocol):
            grouped.setdefault((run.result.method, protocol), []).append(run)
    return [_section(runs, task, protocol, found) for (task, protocol), found in grouped.items()]


def _section(runs: list[Run], task: str, protocol: str, evaluations: list[Run]) -> Section:
    models = [input_of(run.result, "model") for run in evaluations]
    makers = [makers_of(runs, *model) for model in models]
    shared = _shared([run for chain in makers for run in chain])
    asked = _shared(evaluations, by_all=True)
    cited = {input_of(run.result, "baseline")[1] for run in evaluations}
    rows: list[Row] = []
    for place, (run, made, name) in enumerate(
        zip(evaluations, makers, _model_names(evaluations), strict=True)
    ):
        parts = (*(_differing(maker, shared) for maker in made), _differing(run, asked))
        row = Row(
            run,
            made,
            run.result.measurements[0],
            None,
            0.0,
            run.result.fingerprint in cited,
            input_of(run.result, "baseline")[1],
            name,
            history_of(runs, *models[place]) or name,
            parts,
        )
        rows += [_scored(row, e) for e in run.result.measurements if e.protocol == protocol]
    ranked = _ranked(rows)
    tables = list(_tables(rows, ranked))
    others = [(row, row.score) for row in rows if not _is_told(row.score, ranked)]
    return Section(task, protocol, evaluations, tables, others, shared)


def _scored(row: Row, score: Measurement) -> Row:
    """Return the row of one score, with what compares it."""
    for entry in row.evaluation.result.measurements:
        of = entry.comparison
        is_alike = (entry.protocol, entry.basis) == (score.protocol, score.basis)
        if of is not None and of.score == score.name and is_alike:
            return row._replace(score=score, comparison=entry, neutral=of.neutral)
    return row._replace(score=score)


def _is_told(entry: Measurement, ranked: list[str]) -> bool:
    """Whether a table ranks a measurement, or shows it beside the one that it compares."""
    name = entry.name if entry.comparison is None else entry.comparison.score
    return name in ranked


def _differing(run: Run, shared: dict[str, dict[str, str]]) -> tuple[str, ...]:
    common, own = shared[run.result.command], settings_of(run.result.settings)
    return tuple(f"{spaced(key)} {text}" for key, text in own.items() if key not in common and text)


def _shared(runs: list[Run], by_all: bool = False) -> dict[str, dict[str, str]]:
    """Return, verb by verb, the settings on which all runs that have them agree.

    With `by_all`, a setting that some runs do not have is not shared: what a model was asked
    through counts where others were asked plainly.
    """
    values: dict[str, dict[str, list[str]]] = {}
    counts: dict[str, int] = {}
    for run in {id(run): run for run in runs}.values():
        command = run.result.command
        counts[command] = counts.get(command, 0) + 1
        verb = values.setdefault(command, {})
        for key, text in settings_of(run.result.settings).items():
            verb.setdefault(key, []).append(text)
    return {
        verb: {
            key: texts[0]
            for key, texts in found.items()
            if len(set(texts)) == 1 and (len(texts) == counts[verb] or not by_all)
        }
        for verb, found in values.items()
    }


def _model_names(evaluations: list[Run]) -> list[str]:
    """Return the last parts of the models' paths, as many as tell different models apart."""
    entries = [input_of(run.result, "model") for run in evaluations]
    names: list[str] = []
    for path, content_hash in entries:
        parts, length = PurePath(path).parts or ("unnamed",), 1
        while length < len(parts) and any(
            other_hash != content_hash and PurePath(other).parts[-length:] == parts[-length:]
            for other, other_hash in entries
        ):
            length += 1
        names.append("/".join(parts[-length:]).removeprefix("//"))
    return names


def _ranked(rows: list[Row]) -> list[str]:
    """Return the scores that rank models: those with a comparison, or else the first one."""
    directed = [
        row for row in rows if row.score.better != "neither" and row.score.comparison is None
    ]
    compared = {row.score.name: None for row in directed if row.comparison}
    return list(compared) or [row.score.name for row in directed[:1]]


def _tables(rows: list[Row], ranked: list[str]) -> Iterator[ProtocolTable]:
    for name in ranked:
        for basis in BASES:
            found = [row for row in rows if (row.score.name, row.score.basis) == (name, basis)]
            if found:
                first = found[0].score
                found.sort(key=_order)
                yield ProtocolTable(name, first.unit, first.better, basis, found, _amount(found))


def _order(row: Row) -> tuple[bool, float, str]:
    if not is_sound(row.score):
        return True, 0.0, row.label
    value = row.score.value
    return False, -value if row.score.better == "higher" else value, row.label


def _amount(rows: list[Row]) -> str:
    """Return the first measurement that all making runs have, preferring one that varies."""
    made = [row for row in rows if row.makers]
    if not made:
        return ""
    names = [entry.name for entry in made[0].makers[-1].result.measurements]
    common = [name for name in names if all(row.made(name) is not None for row in made)]
    varying = [name for name in common if len({row.made(name) for row in made}) > 1]
    return (varying or common or [""])[0]
