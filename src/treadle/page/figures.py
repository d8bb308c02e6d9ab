"""The kinds of figure that a result may hold, drawn.

Of a heatmap, each series is a row and `x` names the columns. Of a timeline, each series is a lane:
`x` says when its spans start and `y` how long they last, or `x` labels them while `low` and `high`
say when they start and end.
"""

import html
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from treadle.core.result import Figure, Series
from treadle.page.canvas import (
    INK,
    MUTED,
    PAPER,
    Drawing,
    drawing,
    log_scale,
    pen,
    plain_ticks,
    power_ticks,
)
from treadle.page.labels import label_text, meet
from treadle.page.numbers import plain

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from matplotlib.text import Text
    from numpy.typing import NDArray

__all__ = ["draw", "num_left_out"]

_ROW_INCHES, _FRAME_INCHES = 0.3, 0.9
_MOST_NAMED_CELLS = 120
_NUM_SHADES = 24
_NEARLY_ONE = 0.02
_LOG_FROM = 1000.0
"""Ratio of two values from which on an axis is logarithmic."""
_ONE_SCALE = 5.0
"""Largest ratio of two magnitudes that one axis still shows side by side."""


def draw(figure: Figure, key: str) -> str:
    """Return `figure` as inline SVG, a picture as an image; `key` is its unique id on the page."""
    if figure.kind == "picture":
        return _picture(figure)
    figure = figure.model_copy(update={"series": [_finite(series) for series in figure.series]})
    names = ", ".join(series.name for series in figure.series[:8])
    description = (
        f"{figure.title}: {figure.y_label} against {figure.x_label} for {names or 'none'}."
    )
    with drawing(key, description, _height_inches(figure)) as drawn:
        if any(series.y for series in figure.series):
            _DRAWERS[figure.kind](drawn, figure)
        else:
            _say_empty(drawn)
    return drawn.svg


def _picture(figure: Figure) -> str:
    source = f"data:image/png;base64,{figure.png_base64}"
    return f'<img src="{source}" alt="{html.escape(figure.title)}" style="max-width:100%">'


def num_left_out(figure: Figure) -> int:
    """Return how many values cannot be drawn because they are infinite or not a number."""
    return sum(not math.isfinite(y) for series in figure.series for y in series.y)


def _finite(series: Series) -> Series:
    """Drop the points without a finite value, and take it for ends that are not finite."""
    places = [place for place, y in enumerate(series.y) if math.isfinite(y)]

    def ends(values: list[float] | None) -> list[float] | None:
        if values is None:
            return None
        return [values[p] if math.isfinite(values[p]) else series.y[p] for p in places]

    kept = {"x": [series.x[p] for p in places], "y": [series.y[p] for p in places]}
    return series.model_copy(update={**kept, "low": ends(series.low), "high": ends(series.high)})


def _height_inches(figure: Figure) -> float:
    if figure.kind == "interval":
        return _FRAME_INCHES + _ROW_INCHES * len(_interval_rows(figure)) * (
            1 if _share_scale(figure) else 2
        )
    if figure.kind in ("timeline", "heatmap"):
        return max(1.6, _FRAME_INCHES + _ROW_INCHES * len(figure.series))
    return 3.0


def _say_empty(drawn: Drawing) -> None:
    axes = drawn.axes()
    axes.set_axis_off()
    axes.text(0.5, 0.5, "No values", ha="center", color=MUTED)


def _line(drawn: Drawing, figure: Figure) -> None:
    axes = drawn.axes()
    places = _places(axes, figure)
    longest = max(len(series.y) for series in figure.series)
    for index, series in enumerate(figure.series):
        style, x = pen(index), places[index]
        axes.plot(
            x,
            series.y,
            color=style.colour,
            linestyle=style.line,
            marker=style.marker if longest <= 40 else "",
            markersize=5,
            label=label_text(series.name),
        )
        if series.low is not None and series.high is not None:
            axes.fill_between(x, series.low, series.high, color=style.colour, alpha=0.18, lw=0)
    _finish(axes, figure)


def _scatter(drawn: Drawing, figure: Figure) -> None:
    axes = drawn.axes()
    places = _places(axes, figure)
    for index, series in enumerate(figure.series):
        style = pen(index)
        _errors(axes, places[index], series, style.colour)
        axes.scatter(
            places[index],
            series.y,
            color=style.colour,
            marker=style.marker,
            s=28,
            label=label_text(series.name),
            zorder=3,
        )
    _finish(axes, figure)


def _bar(drawn: Drawing, figure: Figure) -> None:
    axes = drawn.axes()
    names = _categories(figure)
    width = 0.8 / len(figure.series)
    for index, series in enumerate(figure.series):
        offset = (index - (len(figure.series) - 1) / 2) * width
        x = [names.index(_name(value)) + offset for value in series.x]
        axes.bar(x, series.y, width * 0.92, color=pen(index).colour, label=label_text(series.name))
        _errors(axes, x, series, INK)
    _name_ticks(axes, names)
    axes.grid(visible=False, axis="x")
    _finish(axes, figure)


def _heatmap(drawn: Drawing, figure: Figure) -> None:
    import matplotlib
    import numpy as np

    axes = drawn.axes()
    columns = _categories(figure)
    cells = np.full((len(figure.series), len(columns)), np.nan)
    for row, series in enumerate(figure.series):
        for value, y in zip(series.x, series.y, strict=True):
            cells[row, columns.index(_name(value))] = y
    shades = matplotlib.colormaps["cividis"].resampled(_NUM_SHADES)
    known = cells[np.isfinite(cells)]
    is_log = bool(known.size) and 0 < _LOG_FROM * known.min() < known.max()
    mesh = axes.pcolormesh(
        np.ma.masked_invalid(cells),
        cmap=shades,
        norm="log" if is_log else "linear",
        edgecolors=PAPER,
        lw=0.5,
        rasterized=False,
    )
    axes.grid(visible=False)
    axes.invert_yaxis()
    axes.set_yticks([row + 0.5 for row in range(len(cells))], [s.name for s in figure.series])
    _name_ticks(axes, columns, shift=0.5)
    bar = drawn.figure.colorbar(mesh, ax=axes, pad=0.02)
    bar.outline.set_visible(False)
    if is_log:
        power_ticks(bar.ax, "y")
    else:
        plain_ticks(bar.ax, "y")
    axes.set_xlabel(figure.x_label)
    axes.set_ylabel(figure.y_label)
    if 0 < cells.size <= _MOST_NAMED_CELLS:
        _name_cells(drawn, axes, cells, is_log)


def _name_cells(drawn: Drawing, axes: "Axes", cells: "NDArray[np.float64]", is_log: bool) -> None:
    """Write the value of each cell into it, unless they would meet."""
    import numpy as np

    known = cells[np.isfinite(cells)]
    low, high = (float(known.min()), float(known.max())) if known.size else (0.0, 0.0)
    middle = math.sqrt(low * high) if is_log else (low + high) / 2
    values = []
    for (row, column), value in np.ndenumerate(cells):
        light = float(value) > middle
        text = "–" if math.isnan(value) else plain(float(value), 3)
        colour = MUTED if math.isnan(value) else "#111111" if light else "#ffffff"
        place = (column + 0.5, row + 0.5)
        values.append(axes.text(*place, text, ha="center", va="center", color=colour, fontsize=8))
    for entry in values if meet(drawn.figure, values) else ():
        entry.remove()


def _interval_rows(figure: Figure) -> list[tuple[str, float, float, float, int]]:
    """Return label, value, low, high and series of every interval."""
    found = []
    for index, series in enumerate(figure.series):
        for place, (x, y) in enumerate(zip(series.x, series.y, strict=True)):
            low = series.low[place] if series.low else y
            high = series.high[place] if series.high else y
            same = len(series.x) == 1 and _name(x) == series.name
            name = series.name if same else f"{series.name}: {_name(x)}"
            found.append((name if len(figure.series) > 1 else _name(x), y, low, high, index))
    return found


def _share_scale(figure: Figure) -> bool:
    sizes = [abs(row[1]) for row in _interval_rows(figure) if row[1] and math.isfinite(row[1])]
    return not sizes or max(sizes) <= _ONE_SCALE * min(sizes)


def _interval(drawn: Drawing, figure: Figure) -> None:
    rows = _interval_rows(figure)
    shared = _share_scale(figure)
    panels = [rows] if shared else [[row] for row in rows]
    grid = drawn.figure.subplots(len(panels), 1, squeeze=False, gridspec_kw={"hspace": 1.1})
    for axes, panel in zip(grid[:, 0], panels, strict=True):
        for place, (_, value, low, high, index) in enumerate(panel):
            colour = pen(index if shared else 0).colour
            axes.plot([low, high], [place, place], color=colour, lw=2.5, solid_capstyle="round")
            axes.plot([value], [place], marker="o", color=colour, markersize=6)
        axes.set_yticks(range(len(panel)), [label_text(row[0].replace("_", " ")) for row in panel])
        axes.set_ylim(len(panel) - 0.5, -0.5)
        axes.grid(visible=False, axis="y")
        axes.margins(x=0.08)
        plain_ticks(axes, "x")
    grid[-1, 0].set_xlabel(
        figure.y_label if shared else f"{figure.y_label} (each on its own scale)"
    )


def _timeline(drawn: Drawing, figure: Figure) -> None:
    axes = drawn.axes()
    names: list[Text] = []
    for lane, series in enumerate(figure.series):
        spans = _spans(series)
        starts, lengths = [span[0] for span in spans], [span[1] for span in spans]
        axes.barh([lane] * len(spans), lengths, 0.6, starts, color=pen(lane).colour)
        if len(spans) <= 12:
            names += [
                axes.text(
                    start + length / 2,
                    lane - 0.42,
                    label_text(name),
                    ha="center",
                    va="center",
                    fontsize=8,
                    color=MUTED,
                )
                for start, length, name in spans
            ]
    axes.set_yticks(range(len(figure.series)), [label_text(s.name) for s in figure.series])
    axes.set_ylim(len(figure.series) - 0.4, -0.7)
    for name in meet(drawn.figure, names):
        name.remove()
    axes.grid(visible=False, axis="y")
    axes.set_xlabel(figure.x_label)
    axes.set_ylabel(figure.y_label)


def _spans(series: Series) -> list[tuple[float, float, str]]:
    """Return start, length and label of each span of a lane."""
    if series.low is not None and series.high is not None:
        ends = zip(series.x, series.low, series.high, strict=True)
        return [(low, high - low, "" if isinstance(x, float) else x) for x, low, high in ends]
    numbers = [float(x) for x in series.x if not isinstance(x, str)]
    return [(x, y, "") for x, y in zip(numbers, series.y, strict=True)]


_DRAWERS: dict[str, Callable[[Drawing, Figure], None]] = {
    "line": _line,
    "bar": _bar,
    "scatter": _scatter,
    "heatmap": _heatmap,
    "interval": _interval,
    "timeline": _timeline,
}


def _name(value: float | str) -> str:
    return value if isinstance(value, str) else plain(value)


def _categories(figure: Figure) -> list[str]:
    return list(dict.fromkeys(_name(value) for series in figure.series for value in series.x))


def _places(axes: "Axes", figure: Figure) -> list[list[float]]:
    """Return where each series' points stand: numbers as they are, names in order of appearance."""
    if not any(isinstance(value, str) for series in figure.series for value in series.x):
        return [[float(value) for value in series.x] for series in figure.series]
    names = _categories(figure)
    _name_ticks(axes, names)
    return [[float(names.index(_name(value))) for value in series.x] for series in figure.series]


def _name_ticks(axes: "Axes", names: list[str], shift: float = 0.0) -> None:
    """Name the ticks of the x axis: leaning where long, every so many where there are many."""
    every = max(1, math.ceil(len(names) / 24))
    shown = range(0, len(names), every)
    leaning = sum(len(names[place]) + 2 for place in shown) > 70
    turned: dict[str, Any] = {"rotation": 35, "ha": "right"} if leaning else {}  # Any: text options
    axes.set_xticks(
        [place + shift for place in shown], [label_text(names[place]) for place in shown], **turned
    )


def _errors(axes: "Axes", x: list[float], series: Series, colour: str) -> None:
    if series.low is not None and series.high is not None:
        axes.vlines(x, series.low, series.high, color=colour, lw=1.4)


def _finish(axes: "Axes", figure: Figure) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_xlabel(figure.x_label)
    axes.set_ylabel(figure.y_label)
    numbers = [value for series in figure.series for value in series.x]
    if figure.kind != "bar" and not any(isinstance(value, str) for value in numbers):
        x = [float(value) for value in numbers]
        if not log_scale(axes, "x", x, _LOG_FROM) and all(value == round(value) for value in x):
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    y = [y for series in figure.series for y in series.y if math.isfinite(y)]
    if figure.kind == "bar":  # begins at 0
        plain_ticks(axes, "y")
    else:
        log_scale(axes, "y", y, _LOG_FROM)
    _calm(axes, y)
    if len(figure.series) > 1:
        columns = 1 if len(figure.series) <= 12 else 2
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), ncols=columns, fontsize=9)


def _calm(axes: "Axes", values: list[float]) -> None:
    """Widen the y axis where all values are nearly one, lest noise look like structure."""
    size = max((abs(value) for value in values), default=0.0)
    if size and max(values) - min(values) < _NEARLY_ONE * size:
        middle = (max(values) + min(values)) / 2
        axes.set_ylim(middle - 0.2 * size, middle + 0.2 * size)
