"""One row a model, under headings that say what was done: for models that differ in no amount."""

from typing import TYPE_CHECKING, NamedTuple

from treadle.page.canvas import INK, MUTED, PAPER, Drawing, drawing, log_scale, pen
from treadle.page.groups import groups_of, names_in
from treadle.page.labels import label_text
from treadle.page.numbers import interval, is_drawable, score_decimals, spoken
from treadle.page.parents import Ancestor, listed_parents, parents_in
from treadle.page.scores import ProtocolTable, Row
from treadle.page.wording import shortened, shortened_apart

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["plot_rows", "span"]

_WIDTH_INCHES, _NARROW_INCHES = 7.4, 3.6
_LINE_INCHES = 0.25
_LETTER_POINTS = 5.4
"""Room for a letter of a label, which browsers draw in their own font."""
_FRAME_INCHES = 0.75
_ABOVE = 0.9
"""Lines between a model's name and its row, where names stand above."""
_MOST_WITH_INTERVAL = 1e6
_MOST_LETTERS, _MOST_NARROW = 56, 34
"""Of a name at the left of the plot, and of one beside a value on a phone; the table has it all."""
_MOST_HEADING, _MOST_HEADING_NARROW = 100, 52


class _Item(NamedTuple):
    """A model's place on the plot."""

    line: float
    name: str
    row: Row
    colour: str
    parents: list[Ancestor]


class _Heading(NamedTuple):
    line: float
    text: str


def span(row: Row) -> tuple[float, float] | None:
    """Return the ends of the interval; None where it has none, or none that can be drawn."""
    low, high = row.score.low, row.score.high
    if low is None or high is None or not is_drawable(low) or not is_drawable(high):
        return None
    return low, high


def plot_rows(
    table: ProtocolTable,
    key: str,
    rows: list[Row],
    description: str,
    label: str,
    is_narrow: bool = False,
) -> str:
    """Draw one row a model, by what was done, the best at the top; strokes mark parents.

    Args:
        table: All models, which say what is compared with what.
        key: The picture's id on the page.
        rows: Those that are drawn.
        description: What a screen reader says.
        label: Of the axis.
        is_narrow: For a phone: names stand above their rows.
    """
    headings, items, num_lines = _placed(table, rows, is_narrow)
    height = _FRAME_INCHES + _LINE_INCHES * num_lines
    width = _NARROW_INCHES if is_narrow else _WIDTH_INCHES
    with drawing(key, description, height, width) as drawn:
        axes = drawn.axes()
        _lay_out(drawn, axes, [] if is_narrow else items, height, width)
        scores = [row.score.value for row in rows]
        is_log = log_scale(axes, "x", scores)
        for row in table.baselines:
            if is_drawable(row.score.value):
                axes.axvline(row.score.value, color=INK, lw=1.1, linestyle=(0, (6, 3)), zorder=1)
        left = 0.0 if is_narrow else -_room(items)
        for item in items:
            _draw(axes, item, is_narrow, left)
        for heading in headings:
            _say(axes, heading.text, (0.0, heading.line), left, INK, weight="bold")
        axes.set_ylim(num_lines - 0.4, -0.6)
        axes.set_yticks([])
        axes.grid(visible=False, axis="y")
        axes.spines["left"].set_visible(False)
        axes.margins(x=0.04)
        axes.set_xlabel(f"{label}, log scale" if is_log else label)
    return drawn.svg


def _placed(
    table: ProtocolTable, rows: list[Row], is_narrow: bool
) -> tuple[list[_Heading], list[_Item], float]:
    """Return where headings and models stand, in lines of text from the top, and how many."""
    shown = {id(row) for row in rows}
    headings: list[_Heading] = []
    items: list[_Item] = []
    line, number = 0.0, 0
    for group in groups_of(table):
        if not any(id(row) in shown for row in group.rows):
            continue
        parents = [parents_in(table, row) for row in group.rows]
        made_from = f"Made from {listed_parents(parents[0])}"
        text = made_from if group.is_joined else group.heading
        room = _MOST_HEADING_NARROW if is_narrow else _MOST_HEADING
        headings.append(_Heading(line, shortened(text, room)))
        line += 1.0
        for row, name, own in zip(group.rows, names_in(group.rows), parents, strict=True):
            if id(row) in shown:
                line += _ABOVE if is_narrow else 0.0
                items.append(_Item(line, _named(row, name), row, _colour(row, number), own))
                line += 1.0
        line += 0.35
        number += not group.is_given
    most = _MOST_NARROW if is_narrow else _MOST_LETTERS
    names = shortened_apart([item.name for item in items], most)
    items = [item._replace(name=name) for item, name in zip(items, names, strict=True)]
    return headings, items, line


def _named(row: Row, name: str) -> str:
    tag = "control" if row.is_control else "baseline" if row.is_baseline else ""
    return f"{name} ({tag})" if tag else name


def _colour(row: Row, number: int) -> str:
    return INK if not row.makers else MUTED if row.is_control else pen(number).colour


def _room(items: list[_Item]) -> float:
    """Return the points that the longest name takes."""
    return _LETTER_POINTS * max(len(item.name) for item in items) + 12.0


def _lay_out(drawn: Drawing, axes: "Axes", items: list[_Item], height: float, width: float) -> None:
    """Leave room beside the axes for names at their left, and for values at their right."""
    left, right = (_room(items) / 72, 1.45) if items else (0.05, 0.05)
    total = max(width, left + right + 2.5)
    drawn.figure.set_size_inches(total, height)
    bottom = 0.5 / height
    axes.set_position((left / total, bottom, (total - left - right) / total, 1 - bottom))


def _draw(axes: "Axes", item: _Item, is_narrow: bool, left: float) -> None:
    row, line = item.row, item.line
    ends = span(row)
    if ends:
        axes.plot(ends, [line, line], color=item.colour, lw=2, alpha=0.55)
    for parent in item.parents:
        if parent.row is not None and is_drawable(parent.row.score.value):
            value = parent.row.score.value
            axes.plot([value], [line], marker="|", color=MUTED, markersize=11, markeredgewidth=1.6)
    face = PAPER if row.is_control else item.colour
    axes.plot(
        [row.score.value], [line], marker="o", color=item.colour, markerfacecolor=face, markersize=7
    )
    name_line = line - _ABOVE if is_narrow else line
    _say(axes, item.name, (0.0, name_line), left, item.colour)
    if is_narrow:
        _say(axes, spoken(row.score.value), (1.0, name_line), 0.0, INK, "right")
    else:
        _say(axes, _value(row), (1.0, line), 9.0, INK)


def _value(row: Row) -> str:
    """Return a score with its interval, short enough to stand beside the plot."""
    score, ends = row.score, span(row)
    if ends is None or max(map(abs, ends)) >= _MOST_WITH_INTERVAL:
        return spoken(score.value)
    decimals = score_decimals(score.value, score.low, score.high)
    return interval(score.value, score.low, score.high, decimals)


def _say(
    axes: "Axes",
    text: str,
    place: tuple[float, float],
    points: float,
    colour: str,
    side: str = "left",
    weight: str = "normal",
) -> None:
    """Write in the line of a row, so many points from one edge of the axes."""
    axes.annotate(
        label_text(text),
        place,
        xycoords=("axes fraction", "data"),
        xytext=(points, 0.0),
        textcoords="offset points",
        ha=side,
        va="center",
        fontsize=9.5,
        color=colour,
        fontweight=weight,
        bbox={"facecolor": PAPER, "edgecolor": "none", "pad": 1},
        zorder=5,
    )
