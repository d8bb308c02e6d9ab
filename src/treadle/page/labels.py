"""Labels that do not meet: ticks are thinned out, and texts that would lie on others left out."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure
    from matplotlib.text import Text
    from matplotlib.transforms import Bbox

__all__ = ["apart", "label_text", "meet", "thin_ticks"]

_ROOM = 1.15
"""Browsers' fonts are wider than the one that is measured here."""


def label_text(name: str) -> str:
    """Return `name` so that matplotlib shows it: it hides labels that begin with an underscore."""
    return f"\u200b{name}" if name.startswith("_") else name


def thin_ticks(figure: "Figure") -> None:
    """Leave only every so many labels of each axis, so that no two meet."""
    figure.draw_without_rendering()  # settles limits, ticks and places
    for axes in figure.axes:
        _thin(axes.xaxis, 0)
        _thin(axes.yaxis, 1)


def _thin(axis: "Axis", side: int) -> None:
    labels = [label for label in axis.get_ticklabels() if label.get_text()]
    low, high = sorted(axis.get_view_interval())
    shown = [label for label in labels if low <= label.get_position()[side] <= high]
    if len(shown) < 2:
        return
    every = 1
    while any(
        _touch(a, b, side) for a, b in zip(shown[::every], shown[every::every], strict=False)
    ):
        every += 1
    if every == 1:
        return
    kept = shown[::every]
    leaning = {"rotation": kept[0].get_rotation(), "ha": kept[0].get_horizontalalignment()}
    options: dict[str, Any] = leaning if side == 0 else {}  # Any: text options
    places = [label.get_position()[side] for label in kept]
    axis.set_ticks(places, [label.get_text() for label in kept], **options)


def _touch(first: "Text", second: "Text", side: int) -> bool:
    """Whether two labels of one axis meet; leaning ones do where their lines of text would."""
    boxes = [label.get_window_extent() for label in (first, second)]
    angle = math.radians(first.get_rotation() % 180)
    if side == 0 and angle:
        anchors = [
            box.x1 if first.get_horizontalalignment() == "right" else box.x0 for box in boxes
        ]
        figure = first.get_figure(root=True)
        line = float(first.get_fontsize()) * (72 if figure is None else figure.dpi) / 72
        return bool(abs(anchors[1] - anchors[0]) < _ROOM * line / math.sin(angle))
    centres = [(box.x0 + box.x1, box.y0 + box.y1)[side] / 2 for box in boxes]
    sizes = [(box.width, box.height)[side] for box in boxes]
    return bool(abs(centres[1] - centres[0]) < _ROOM * sum(sizes) / 2)


def meet(figure: "Figure", texts: Sequence["Text"]) -> list["Text"]:
    """Return the texts that lie on one that stands before them in the list."""
    figure.draw_without_rendering()
    kept: list[Bbox] = []
    found = []
    for text in texts:
        box = text.get_window_extent().expanded(_ROOM, 1.0)
        if any(box.overlaps(other) for other in kept):
            found.append(text)
        else:
            kept.append(box)
    return found


def apart(heights: Sequence[float], gap: float) -> list[float]:
    """Return growing positions near `heights`, each at least `gap` above the one before."""
    placed: list[list[float]] = []  # clusters of touching labels, each centred on its points
    for height in heights:
        placed.append([height])
        while len(placed) > 1 and _low(placed[-1], gap) < _low(placed[-2], gap) + gap * len(
            placed[-2]
        ):
            placed[-2:] = [placed[-2] + placed[-1]]
    return [_low(cluster, gap) + gap * index for cluster in placed for index in range(len(cluster))]


def _low(cluster: Sequence[float], gap: float) -> float:
    """Return where the lowest label of a cluster stands."""
    return sum(cluster) / len(cluster) - gap * (len(cluster) - 1) / 2
