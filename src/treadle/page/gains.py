"""What was gained by what was done to a model: bytes on disk, zeros, bytes in memory, speed."""

from typing import Any, NamedTuple

from treadle.core.result import Measurement, Result
from treadle.page.scores import ProtocolTable, Row
from treadle.page.sources import Run, input_of
from treadle.verbs import VERBS

__all__ = ["Gain", "Speed", "gains_of"]


class Speed(NamedTuple):
    """What a table's speeds are."""

    name: str
    unit: str


class Gain(NamedTuple):
    """What is known of one model, in the form in which it was evaluated."""

    size_bytes: int | None
    zero_fraction: float | None
    """Share of those bytes whose numbers are zero."""
    held_bytes: int | None
    """Bytes of the weights in memory."""
    speed: Measurement | None


def gains_of(table: ProtocolTable, runs: list[Run]) -> tuple[list[Gain], Speed | None]:
    """Return what was gained, row by row, and what the speeds are, where there are some.

    A run that measures without a protocol tells of a row where it read the same model in the same
    form: with equal values of all settings that both verbs have. The first measurement that should
    be high is its speed; the one that most rows have is taken.
    """
    beside = [_beside(row, runs) for row in table.rows]
    kinds: dict[tuple[str, str, Speed], int] = {}
    for found in beside:
        for run in found:
            for kind in _speeds(run.result):
                kinds[kind] = kinds.get(kind, 0) + 1
    best = max(kinds, key=lambda kind: kinds[kind], default=None)
    gains = [_gain(row, found, best) for row, found in zip(table.rows, beside, strict=True)]
    return gains, None if best is None else best[2]


def _speeds(result: Result) -> list[tuple[str, str, Speed]]:
    found = (entry for entry in result.measurements if entry.better == "higher")
    return [(result.command, result.method, Speed(e.name, e.unit)) for e in list(found)[:1]]


def _gain(row: Row, beside: list[Run], kind: tuple[str, str, Speed] | None) -> Gain:
    sizes = row.evaluation.result.bytes
    size, zeros = sizes.get("input"), sizes.get("zeros")
    held = next(
        (
            run.result.bytes["held"]
            for run in (row.evaluation, *beside)
            if "held" in run.result.bytes
        ),
        None,
    )
    speed = next((run for run in beside if kind in _speeds(run.result)), None)
    return Gain(
        size,
        zeros / size if zeros is not None and size else None,
        held,
        None if speed is None or kind is None else speed.result.measurement(kind[2].name),
    )


def _beside(row: Row, runs: list[Run]) -> list[Run]:
    """Return the runs that measured the row's model in its form without a protocol."""
    return [
        run
        for run in runs
        if input_of(run.result, "model")[1] == row.model_hash
        and run.result.command != row.evaluation.result.command
        and not run.made_hash
        and not any(entry.protocol for entry in run.result.measurements)
        and _is_one_form(run.result, row.evaluation.result)
    ]


def _is_one_form(first: Result, second: Result) -> bool:
    """Whether all settings that both verbs take have equal values, or their defaults."""
    left, right = _defaults(first), _defaults(second)
    common = set(left) & set(right)
    return all(
        first.settings.get(key, left[key]) == second.settings.get(key, right[key])
        for key in common - {"method"}
    )


def _defaults(result: Result) -> dict[str, Any]:  # Any: values of settings
    """Return what a verb takes: the default of each parameter."""
    verb = VERBS.get(result.verb)
    verb = verb.action(result.action) if verb is not None and result.action else verb
    if verb is None:
        return {}
    return {
        name: None if entry.is_required else entry.default
        for name, entry in verb.parameters().items()
        if not entry.is_positional
    }
