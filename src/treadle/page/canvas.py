"""Figures as inline SVG whose colours follow the page's light or dark theme."""

import html
import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from treadle.page.labels import thin_ticks
from treadle.page.numbers import plain, power_of_ten

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "INK",
    "MARKERS",
    "MUTED",
    "PAPER",
    "Drawing",
    "Pen",
    "drawing",
    "log_scale",
    "pen",
    "plain_ticks",
    "power_ticks",
]

# Colours that stand for variables of the page's style sheet; no data colour map contains them.
INK, MUTED, GRID, PAPER = "#010203", "#040506", "#070809", "#0a0b0c"
_NUM_COLOURS = 8
_SERIES = tuple(f"#fe01{index:02x}" for index in range(_NUM_COLOURS))
MARKERS = "osD^vPX*"
_LINES = ("-", "--", "-.", ":")
_VARIABLES = {
    INK: "var(--ink)",
    MUTED: "var(--muted)",
    GRID: "var(--rule)",
    PAPER: "var(--paper)",
    **{colour: f"var(--series-{index})" for index, colour in enumerate(_SERIES)},
}
_WIDTH_INCHES = 6.2
_LOG_RANGE, _FEW_DECADES = 10.0, 300.0
_PLAIN_BELOW = 1e5
"""From here on the ticks of a logarithmic axis are written as powers."""
_STYLE: dict[str, Any] = {  # Any: matplotlib's settings
    "axes.edgecolor": GRID,
    "axes.labelcolor": MUTED,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.formatter.useoffset": False,
    "axes.labelsize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
    "figure.facecolor": "none",
    "font.size": 10,
    "font.family": "sans-serif",
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.labelcolor": INK,
    "svg.fonttype": "none",
    "svg.hashsalt": "treadle",
    "text.color": INK,
    "text.parse_math": False,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "xtick.major.size": 3,
    "ytick.major.size": 0,
    "xtick.minor.size": 0,
    "ytick.minor.size": 0,
}


class Pen(NamedTuple):
    """How one series is drawn: colour, marker and line differ, so that no one needs the colours."""

    colour: str
    marker: str
    line: str


def pen(index: int) -> Pen:
    """Return the pen of the series `index`."""
    return Pen(
        _SERIES[index % _NUM_COLOURS],
        MARKERS[index % len(MARKERS)],
        _LINES[index // _NUM_COLOURS % len(_LINES)],
    )


class Drawing:
    """A figure being drawn, and at the end its SVG."""

    def __init__(self, figure: "Figure") -> None:
        self.figure = figure
        self.svg = ""

    def axes(self) -> "Axes":
        """Add the figure's only axes."""
        return self.figure.add_subplot()


def log_scale(
    axes: "Axes", which: Literal["x", "y"], values: list[float], least: float = _LOG_RANGE
) -> bool:
    """Make the axis logarithmic where `values` are positive and span more than `least`.

    Ticks stand at powers of ten, and are written as such where they are large or small; over few of
    them also at 2 and 5. Returns whether it is logarithmic.
    """
    if not values or min(values) <= 0 or max(values) <= least * min(values):
        plain_ticks(axes, which)
        return False
    from matplotlib.ticker import LogLocator, NullLocator

    axis = axes.yaxis if which == "y" else axes.xaxis
    axes.set(**{f"{which}scale": "log"})
    few = max(values) <= _FEW_DECADES * min(values)
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if few else (1.0,), numticks=8))
    axis.set_minor_locator(NullLocator())
    plain_ticks(axes, which)
    if not few and (max(values) >= _PLAIN_BELOW or min(values) < 1 / _PLAIN_BELOW):
        power_ticks(axes, which)
    return True


def power_ticks(axes: "Axes", which: Literal["x", "y"]) -> None:
    """Write the ticks of the axis as powers of ten."""
    from matplotlib.ticker import FuncFormatter

    axis = axes.yaxis if which == "y" else axes.xaxis
    axis.set_major_formatter(FuncFormatter(lambda value, _: power_of_ten(value)))


def plain_ticks(axes: "Axes", which: Literal["x", "y"]) -> None:
    """Write the ticks of the axis as the page writes numbers."""
    from matplotlib.ticker import FuncFormatter

    axis = axes.yaxis if which == "y" else axes.xaxis
    axis.set_major_formatter(FuncFormatter(lambda value, _: plain(round(value, 12), 6)))


@contextmanager
def drawing(
    key: str, description: str, height_inches: float, width_inches: float = _WIDTH_INCHES
) -> Iterator[Drawing]:
    """Draw inside the block; afterwards `svg` holds the picture.

    Equal drawings give equal text. `key` keeps the ids of the page's figures apart, `description`
    is what a screen reader says.
    """
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(), warnings.catch_warnings():
        # Browsers have the glyphs that matplotlib's own font lacks; labels are written as text.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)  # type: ignore[arg-type]  # keys are a literal there
        drawn = Drawing(Figure(figsize=(width_inches, height_inches)))
        yield drawn
        thin_ticks(drawn.figure)
        text = io.StringIO()
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        drawn.figure.savefig(
            text, format="svg", bbox_inches="tight", pad_inches=0.06, metadata=nothing
        )
    drawn.svg = _inline(text.getvalue(), key, description)


def _inline(svg: str, key: str, description: str) -> str:
    """Turn a stand-alone SVG file into an element of the page."""
    svg = svg[svg.index("<svg") :].rstrip()
    svg = re.sub(
        r"<metadata>.*?</metadata>|<defs>\s*<style.*?</style>\s*</defs>", "", svg, flags=re.S
    )
    svg = _unique_ids(svg.replace("xlink:href", "href"), key)
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, variable)
    head, _, body = svg.partition(">")
    viewed = re.search(r'viewBox="([\d. -]+)"', head)
    box = viewed[1] if viewed else "0 0 446 300"
    width = round(float(box.split()[2]) * 4 / 3)
    label = html.escape(description)
    return (
        f'<svg class="plot" viewBox="{box}" style="max-width: {width}px" role="img" '
        f'aria-label="{label}">{body}'
    )


def _unique_ids(svg: str, key: str) -> str:
    """Drop ids that nothing refers to, and put `key` before the others."""
    used = set(re.findall(r'url\(#([^)]+)\)|href="#([^"]+)"', svg))
    names = {first or second for first, second in used}

    def rename(found: re.Match[str]) -> str:
        return f' id="{key}-{found[1]}"' if found[1] in names else ""

    svg = re.sub(r'(?<=[\w"]) id="([^"]*)"', rename, svg)
    return re.sub(r'(url\(#|href="#)', rf"\g<1>{key}-", svg)
