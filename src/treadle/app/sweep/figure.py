"""The plot of a sweep: a line for each method over the first axis of numbers."""

from collections.abc import Sequence

from treadle.app.sweep.axes import Value, spoken
from treadle.app.sweep.document import Document
from treadle.app.sweep.rows import SweepRow, keys_of
from treadle.app.sweep.scores import Score, average
from treadle.core.result import Entry, Figure, Series

__all__ = ["figure"]

_Points = list[tuple[Value, Entry]]


def figure(document: Document, score: Score, rows: Sequence[SweepRow]) -> Figure:
    """Return the means with their intervals: lines, or a row for each where no axis has numbers."""
    own = [row for row in rows if not row.given]
    axis = next((key for key in keys_of(own) if _is_numeric(key, own)), None)
    series: dict[str, _Points] = {}
    for row in own:
        entry = average(score, row.chains, row.groups)
        if isinstance(entry.value, float) and (axis is None or axis in row.place):
            rest = ", ".join(spoken({k: v for k, v in row.place.items() if k != axis}))
            name = f"{rest or score.title}{' (control)' if row.is_control else ''}"
            x = row.label if axis is None else row.place[axis]
            series.setdefault(name, []).append((x, entry))
    unit = f" ({score.measure.unit})" if score.measure.unit else ""
    good = score.measure.better
    return Figure(
        kind="interval" if axis is None else "line",
        title=f"{score.title} of {document.name}",
        x_label=axis or "",
        y_label=f"{score.title}{unit}{f', {good} is better' if good != 'neither' else ''}",
        series=[_series(name, points) for name, points in series.items()],
        basis=score.measure.basis,
    )


def _is_numeric(key: str, rows: Sequence[SweepRow]) -> bool:
    values = [row.place[key] for row in rows if key in row.place]
    return len(set(values)) > 1 and all(isinstance(value, int | float) for value in values)


def _series(name: str, points: _Points) -> Series:
    numbers = [(float(x), entry) for x, entry in points if not isinstance(x, str)]
    ordered: _Points = [*sorted(numbers, key=lambda point: point[0])] if numbers else points
    low = [entry.low for _, entry in ordered if entry.low is not None]
    high = [entry.high for _, entry in ordered if entry.high is not None]
    has_ends = len(low) == len(high) == len(ordered)
    return Series(
        name=name,
        x=[x for x, _ in ordered],
        y=[entry.value for _, entry in ordered if isinstance(entry.value, float)],
        low=low if has_ends else None,
        high=high if has_ends else None,
    )
