"""No two labels of a picture meet, whatever the kind and however far the numbers reach."""

import itertools
import re

import made_results as made
import pytest

from treadle.core.result import Figure, Series
from treadle.page.figures import draw
from treadle.page.labels import apart
from treadle.page.scores import sections
from treadle.page.sources import find
from treadle.page.tradeoff import plot

pytest.importorskip("matplotlib")

_TEXT = re.compile(
    r'<text style="(?P<style>[^"]*)" x="(?P<x>[\d.-]+)" y="(?P<y>[\d.-]+)" '
    r'transform="rotate\((?P<angle>[\d.-]+)[^>]*>(?P<text>[^<]*)<'
)
_WIDE = 0.56
"""Width of a letter, in font sizes."""


def boxes(svg: str) -> dict[str, tuple[float, float, float, float]]:
    """Return about where each upright text of a picture lies, by a number and its words."""
    found = {}
    for number, one in enumerate(_TEXT.finditer(svg)):
        if float(one["angle"]):
            continue
        x, y = float(one["x"]), float(one["y"])
        size = float(re.search(r"([\d.]+)px", one["style"])[1])
        width = _WIDE * size * len(one["text"])
        anchor = re.search(r"text-anchor: (\w+)", one["style"])
        left = x - {"middle": width / 2, "end": width}.get(anchor[1] if anchor else "start", 0.0)
        found[f"{number} {one['text']}"] = (left, left + width, y - 0.75 * size, y)
    return found


def meeting(svg: str) -> list[tuple[str, str]]:
    places = boxes(svg)
    assert len(places) > 2
    return [
        (first, second)
        for (first, a), (second, b) in itertools.combinations(places.items(), 2)
        if a[0] < b[1] and b[0] < a[1] and a[2] < b[3] and b[2] < a[3]
    ]


def figure(kind: str, x: list, y: list, names: tuple[str, ...] = ("one",)) -> Figure:
    series = [
        Series(name=name, x=x, y=[value * (n + 1) for value in y]) for n, name in enumerate(names)
    ]
    return Figure(kind=kind, title=kind, x_label="x", y_label="y", series=series)


LONG = [f"a name of some length {n}" for n in range(12)]
NUMBERS = [float(n) for n in range(12)]
WIDE = [10.0 ** (n - 3) for n in range(12)]
LARGE = [3e7 + 1e6 * n for n in range(12)]


@pytest.mark.parametrize("kind", ["line", "scatter", "bar", "heatmap"])
@pytest.mark.parametrize(
    ("x", "y"), [(LONG, WIDE), (WIDE, LARGE), (LARGE, WIDE), (NUMBERS, NUMBERS)]
)
def test_no_labels_meet(kind, x, y):
    assert not meeting(draw(figure(kind, x, y, ("first", "second")), "k"))


def test_names_of_short_spans_are_left_out():
    lane = Series(name="core", x=LONG, y=[0.0] * 12, low=NUMBERS, high=[n + 1 for n in NUMBERS])
    drawn = Figure(kind="timeline", title="t", x_label="s", y_label="core", series=[lane])
    svg = draw(drawn, "k")
    assert not meeting(svg)
    assert LONG[0] in svg


@pytest.mark.parametrize("kind", ["line", "scatter"])
def test_what_spans_decades_stands_on_powers_of_ten(kind):
    words = [name.partition(" ")[2] for name in boxes(draw(figure(kind, NUMBERS, WIDE), "k"))]
    powers = [word for word in words if re.fullmatch("10[⁰¹²³⁴⁵⁶⁷⁸⁹⁻]+", word)]
    assert 3 <= len(powers) <= 8
    assert not any("×" in word or "," in word for word in words)


@pytest.mark.parametrize("is_narrow", [False, True])
@pytest.mark.parametrize("amounts", [(0.5,), (0.5, 0.7)])
def test_scores_from_tens_to_millions(tmp_path, amounts, is_narrow):
    dense = made.evaluate(tmp_path, "dense", made.DENSE, 14.1)
    for amount in amounts:
        for method, score in (
            ("random", 4.5e7),
            ("magnitude", 306.0),
            ("ria", 29.2),
            ("wanda", 29.1),
        ):
            content_hash = made.prune(tmp_path, method, amount)
            made.evaluate(tmp_path, f"{method}{amount}", content_hash, score, baseline=dense)
    svg = plot(sections(find([tmp_path]))[0].tables[0], "k", is_narrow=is_narrow)
    if is_narrow and len(amounts) > 1:
        assert svg == "", "a line plot scrolls"
        return
    assert "10⁷" in svg
    assert "10,000,000" not in svg
    assert not meeting(svg)


def test_long_names_leave_room_for_values_on_a_phone(tmp_path):
    for number in range(3):
        name = f"a_method_with_a_name_longer_than_a_phone_is_wide_{number}"
        made.evaluate(tmp_path, name, made.prune(tmp_path, name, 0.5), 20.0 + number)
    table = sections(find([tmp_path]))[0].tables[0]
    assert not meeting(plot(table, "k", is_narrow=True))
    assert "…" not in plot(table, "k")


def test_a_hair_of_sparsity_is_no_axis(tmp_path):
    """0.5 and 0.5002 are one amount; the plot used to stretch them over its width."""
    for method, amount in (("random", 0.5002), ("wanda", 0.5), ("ria", 0.5)):
        made.evaluate(tmp_path, method, made.prune(tmp_path, method, amount), 20.0)
    svg = plot(sections(find([tmp_path]))[0].tables[0], "k")
    assert "0.5001" not in svg
    assert all(f">{method}" in svg for method in ("random", "wanda", "ria"))


def test_heights_are_spread_around_their_places():
    assert apart([0.0, 1.0, 50.0], 10.0) == [-4.5, 5.5, 50.0]
    assert apart([], 10.0) == []
