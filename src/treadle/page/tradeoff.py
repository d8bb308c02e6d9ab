"""Quality against cost: every model of one table as a point with its interval."""

from typing import TYPE_CHECKING, Any, NamedTuple

from treadle.page.canvas import (
    INK,
    MUTED,
    PAPER,
    Drawing,
    Pen,
    drawing,
    log_scale,
    pen,
    plain_ticks,
)
from treadle.page.groups import other_settings, own_name
from treadle.page.labels import apart, label_text
from treadle.page.numbers import bytes_unit, is_drawable, plain
from treadle.page.parents import parents_in
from treadle.page.rowplot import plot_rows, span
from treadle.page.scores import ProtocolTable, Row, same_amount
from treadle.page.wording import shortened, spaced

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.transforms import Transform

__all__ = ["CLOSEUP", "closeup", "plot"]

_WIDTH_INCHES = 7.0
CLOSEUP, _FAR = 3.0, 30.0
"""Multiples of the best score: what a close-up shows, and what makes one needed."""
_LABEL_GAP_POINTS = 14.0
_LEADER: dict[str, Any] = {  # Any: matplotlib's options
    "arrowstyle": "-",
    "lw": 0.7,
    "alpha": 0.55,
    "linestyle": ":",
    "shrinkA": 2,
    "shrinkB": 5,
}
_NEAR_EDGE = 0.05
"""Share of the plot's width within which a line counts as reaching the furthest point."""
_DODGE_POINTS = 4.0
"""Shift between neighbouring lines, so that intervals at one amount do not hide each other."""


class _Line(NamedTuple):
    """Points of one method, by growing amount."""

    name: str
    points: list[tuple[float, Row]]
    pen: Pen
    is_control: bool


class _End(NamedTuple):
    """Where a line stops and what it is called."""

    x: float
    y: float
    name: str
    colour: str
    is_given: bool
    """Whether it is the line across the plot of a model that was given."""


def plot(
    table: ProtocolTable, key: str, shown: list[Row] | None = None, is_narrow: bool = False
) -> str:
    """Return the plot as inline SVG, or an empty string where one row has nothing to stand against.

    Against an amount that varies (sparsity, or else the bytes of the models) each method is a line
    of points; where no method has two amounts, each model is a row. A close-up draws only the rows
    `shown`, each as in the plot of the whole table. One that is narrow is for a phone, and empty
    where the other one serves.
    """
    rows = _drawable(table.rows if shown is None else shown)
    if len(rows) < 2:
        return ""
    axis = _axis(table)
    if axis is None:
        description = _describe(table, "by model", rows)
        return plot_rows(table, key, rows, description, _score_label(table), is_narrow)
    name, amounts = axis
    return "" if is_narrow else _plot_lines(table, key, name, amounts, rows)


def closeup(table: ProtocolTable) -> list[Row]:
    """Return the rows without those whose scores are so bad that they hide how the others differ.

    Empty where there are no such scores, or too little remains.
    """
    best = table.rows[0].score.value
    if table.better != "lower" or not best > 0:
        return []
    near = [row for row in _drawable(table.rows) if row.score.value <= CLOSEUP * best]
    far = [row for row in _drawable(table.rows) if row.score.value > _FAR * best]
    return near if far and len(near) > 2 else []


def _drawable(rows: list[Row]) -> list[Row]:
    return [row for row in rows if is_drawable(row.score.value)]


def _axis(table: ProtocolTable) -> tuple[str, list[float | None]] | None:
    """Return the name of the x axis and the amount of each row.

    None where no method was measured at two amounts: then there is no line to draw.
    """
    made = (row.made(table.amount) for row in table.rows)
    amounts = [None if amount is None or not is_drawable(amount) else amount for amount in made]
    if _has_line(table, amounts):
        return spaced(table.amount), amounts
    sizes = [float(row.evaluation.result.bytes.get("input", 0)) for row in table.rows]
    if all(sizes) and _has_line(table, list(sizes)):
        unit, size = bytes_unit(sizes)
        return f"size of the model ({unit})", [value / size for value in sizes]
    return None


def _has_line(table: ProtocolTable, amounts: list[float | None]) -> bool:
    """Whether a method that made models has two amounts that a reader would call different."""
    seen: dict[str, float] = {}
    for row, amount in zip(table.rows, amounts, strict=True):
        if row.makers and amount is not None:
            first = seen.setdefault(own_name(row), amount)
            if not same_amount(first, amount):
                return True
    return False


def _describe(table: ProtocolTable, against: str, rows: list[Row]) -> str:
    best = rows[0]
    return (
        f"{spaced(table.score)} {against} for {len(rows)} models; best is {best.label} with "
        f"{plain(best.score.value)}. The table below holds every number."
    )


def _plot_lines(
    table: ProtocolTable, key: str, name: str, amounts: list[float | None], rows: list[Row]
) -> str:
    shown = {id(row) for row in rows}
    lines = _lines(table, amounts, shown)
    height = max(3.6, 1.2 + 0.2 * (len(lines) + len(table.baselines)))
    with drawing(key, _describe(table, f"against {name}", rows), height, _WIDTH_INCHES) as drawn:
        axes = drawn.axes()
        log_scale(axes, "y", [row.score.value for row in rows])
        plain_ticks(axes, "x")
        axes.set_xlabel(name)
        axes.set_ylabel(_score_label(table))
        ends: list[_End] = []
        for index, line in enumerate(lines):
            _draw_line(axes, line, _DODGE_POINTS * (index - (len(lines) - 1) / 2))
            amount, row = line.points[-1]
            ends.append(_End(amount, row.score.value, _line_name(line), line.pen.colour, False))
        _draw_parents(axes, table, lines)
        axes.update_datalim(_corners(lines))  # shifted artists do not count by themselves
        axes.margins(x=0.06, y=0.08)
        drawn_rows = {id(row) for line in lines for _, row in line.points}
        for row in (row for row in rows if id(row) not in drawn_rows):
            _draw_baseline(axes, row)
            ends.append(_End(axes.get_xlim()[1], row.score.value, _given_name(row), INK, True))
        _label_ends(drawn, axes, ends)
    return drawn.svg


def _lines(table: ProtocolTable, amounts: list[float | None], shown: set[int]) -> list[_Line]:
    grouped: dict[str, list[tuple[float, Row]]] = {}
    for name, row, amount in zip(_line_names(table, amounts), table.rows, amounts, strict=True):
        if amount is not None and is_drawable(row.score.value):
            grouped.setdefault(name, []).append((amount, row))
    lines, num_plain = [], 0
    for name in sorted(grouped):
        points = sorted(grouped[name], key=lambda point: point[0])
        makers = points[0][1].makers
        control = bool(makers) and makers[-1].is_control
        style = Pen(MUTED, "o", "--") if control else pen(num_plain)
        num_plain += not control
        points = [point for point in points if id(point[1]) in shown]
        if points:
            lines.append(_Line(name, points, style, control))
    return lines


def _line_names(table: ProtocolTable, amounts: list[float | None]) -> list[str]:
    """Return for each row the line that it belongs to.

    It is the method, or, where a method has two points at one amount, the method with its other
    settings.
    """
    crowded = {
        own_name(row)
        for index, (row, amount) in enumerate(zip(table.rows, amounts, strict=True))
        for other, its_amount in zip(table.rows[:index], amounts, strict=False)
        if own_name(other) == own_name(row) and same_amount(amount, its_amount)
    }
    return [
        ", ".join([own_name(row), *other_settings(row, table.amount)])
        if own_name(row) in crowded
        else own_name(row)
        for row in table.rows
    ]


def _corners(lines: list[_Line]) -> list[tuple[float, float]]:
    """Return the ends of all intervals."""
    return [
        (amount, end)
        for line in lines
        for amount, row in line.points
        for end in span(row) or (row.score.value,)
    ]


def _line_name(line: _Line) -> str:
    return f"{line.name} (control)" if line.is_control else line.name


def _given_name(row: Row) -> str:
    return f"{row.label} (baseline)" if row.is_baseline else row.label


def _score_label(table: ProtocolTable) -> str:
    unit = f" ({table.unit})" if table.unit else ""
    good = f", {table.better} is better" if table.better != "neither" else ""
    return f"{spaced(table.score)}{unit}{good}"


def _draw_line(axes: "Axes", line: _Line, shift_points: float) -> None:
    from matplotlib.transforms import ScaledTranslation

    figure = axes.get_figure(root=True)
    assert figure is not None
    shift = ScaledTranslation(shift_points / 72, 0, figure.dpi_scale_trans)
    moved = axes.transData + shift
    x = [amount for amount, _ in line.points]
    y = [row.score.value for _, row in line.points]
    style = line.pen
    axes.plot(x, y, color=style.colour, linestyle=style.line, lw=1.2, alpha=0.8, transform=moved)
    axes.plot(
        x,
        y,
        color=style.colour,
        linestyle="",
        marker=style.marker,
        markersize=7,
        markerfacecolor=PAPER if line.is_control else style.colour,
        markeredgecolor=style.colour if line.is_control else PAPER,
        markeredgewidth=1.4 if line.is_control else 0.8,
        zorder=4,
        transform=moved,
    )
    for amount, row in line.points:
        ends = span(row)
        if ends:
            axes.plot(
                [amount, amount], ends, color=style.colour, lw=1.6, alpha=0.55, transform=moved
            )


def _draw_parents(axes: "Axes", table: ProtocolTable, lines: list[_Line]) -> None:
    """Draw a dotted line from each model to those of several that it was made from."""
    places = {id(row): (amount, row) for line in lines for amount, row in line.points}
    for amount, row in places.values():
        for parent in parents_in(table, row):
            if parent.row is not None and id(parent.row) in places:
                start, other = places[id(parent.row)]
                ends = [row.score.value, other.score.value]
                axes.plot([amount, start], ends, color=MUTED, linestyle=":", lw=1, zorder=2)


def _draw_baseline(axes: "Axes", row: Row) -> None:
    axes.axhline(row.score.value, color=INK, lw=1.2, linestyle=(0, (6, 3)), zorder=1)
    ends = span(row)
    if ends:
        axes.axhspan(*ends, color=INK, alpha=0.06, lw=0, zorder=0)


def _label_ends(drawn: Drawing, axes: "Axes", ends: list[_End]) -> None:
    """Name each line at the right edge, pushed apart where names would overlap.

    A line that stops further left is named beside its last point.
    """
    axes.autoscale_view()  # settles the limits that the positions below depend on
    inches = drawn.figure.dpi_scale_trans
    right = float((axes.transAxes - inches).transform((1.0, 0.0))[0]) * 72
    left, edge = axes.get_xlim()
    last = max((end.x for end in ends if not end.is_given), default=edge)
    far = last - _NEAR_EDGE * (edge - left)
    outer = [end for end in ends if end.x >= far]
    for end, spot, height in _spread(axes, inches, outer):
        _label(axes, end, (right - spot[0] + 16, height - spot[1]), _LEADER)
    inner: list[list[_End]] = []
    for end in sorted((end for end in ends if end.x < far), key=lambda end: end.x):
        if inner and end.x - inner[-1][0].x <= _NEAR_EDGE * (edge - left):
            inner[-1].append(end)
        else:
            inner.append([end])
    for crowd in inner:
        for end, spot, height in _spread(axes, inches, crowd):
            _label(axes, end, (9.0, height - spot[1] + 7.0), None)


def _spread(
    axes: "Axes", inches: "Transform", ends: list[_End]
) -> list[tuple[_End, tuple[float, float], float]]:
    """Return ends by height, where they stand, and the height of each one's name, in points."""
    found = sorted(ends, key=lambda end: end.y)
    spots = [(axes.transData - inches).transform((end.x, end.y)) * 72 for end in found]
    places = [(float(spot[0]), float(spot[1])) for spot in spots]
    return list(zip(found, places, apart([y for _, y in places], _LABEL_GAP_POINTS), strict=True))


def _label(
    axes: "Axes", end: _End, offset_points: tuple[float, float], leader: dict[str, Any] | None
) -> None:  # Any: matplotlib's options
    axes.annotate(
        label_text(shortened(end.name)),
        (end.x, end.y),
        xytext=offset_points,
        textcoords="offset points",
        va="center",
        fontsize=9.5,
        color=end.colour,
        fontweight="bold",
        arrowprops=None if leader is None else {**leader, "color": end.colour},
        zorder=5,
    )
