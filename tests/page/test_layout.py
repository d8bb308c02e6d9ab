"""The page on a desk, on a phone and in the dark: what is wide scrolls by itself."""

import re

import made_results as made
import pytest
from made_results import page_of

from treadle.core.result import digest
from treadle.page.measures import loose_tables
from treadle.page.sources import find

pytest.importorskip("matplotlib")
pytest.importorskip("jinja2")


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    root = tmp_path_factory.mktemp("layout") / "results"
    dense = made.evaluate(root, "dense", made.DENSE, 14.1)
    for method, score in (("wanda", 29.0), ("random", 4.5e7)):
        made.evaluate(root, method, made.prune(root, method, 0.5), score, baseline=dense)
    return page_of(root)


def inside(page: str, tag: str) -> list[str]:
    """Return the class of the block that each element of a kind stands in."""
    return re.findall(rf'<div class="([^"]*)"[^>]*>\s*<{tag}\b', page)


def test_tables_and_pictures_scroll_in_boxes_of_their_own(page):
    assert set(inside(page, "table")) == {"scroll"}
    assert len(inside(page, "table")) == page.count("<table")
    assert set(inside(page, "svg")) <= {"scroll", "scroll wide", "narrow"}
    assert len(inside(page, "svg")) == page.count("<svg")


def test_a_phone_gets_a_chart_of_its_own(page):
    wide, narrow = (
        re.search(rf'<div class="{name}"[^>]*>\s*(<svg.*?</svg>)', page, re.S)[1]
        for name in ("scroll wide", "narrow")
    )
    widths = [
        float(re.search(r'viewBox="[\d.]+ [\d.]+ ([\d.]+)', svg)[1]) for svg in (wide, narrow)
    ]
    assert widths[1] * 4 / 3 <= 360 < widths[0], "points, of which a phone shows some 270"
    for words in ("wanda", "random (control)", "dense (baseline)"):
        assert words in narrow
    phone = re.search(r"@media \(max-width: 40rem\) \{(.*?)\n\}", page, re.S)[1]
    assert ".wide { display: none; }" in phone
    assert ".narrow { display: block; }" in phone
    assert ".narrow .plot { min-width: 0; }" in page


def test_every_colour_of_a_picture_has_one_for_the_dark(page):
    light, dark = re.findall(r":root \{(.*?)\}", page, re.S)[:2]
    names = set(re.findall(r"var\((--[\w-]+)\)", page))
    for colours in (light, dark):
        assert names <= set(re.findall(r"(--[\w-]+):", colours))


def test_a_long_name_leaves_room_for_numbers(tmp_path):
    long = [f"{'x' * 170}-{end}" for end in ("first", "second")]
    dense = made.evaluate(tmp_path, "dense", made.DENSE, 14.1)
    for name in long:
        made.evaluate(tmp_path, name, digest(name), 15.0, baseline=dense)
    page = page_of(tmp_path)
    lead = re.search(r'<p class="lead">(.*?)</p>', page, re.S)[1]
    assert len(lead) < 200
    assert all(name[-6:] in lead for name in long), "their ends tell them apart"
    narrow = re.search(r'<div class="narrow">(.*?)</div>', page, re.S)[1]
    assert all(name[-6:] in narrow for name in long)
    widths = re.findall(r'<svg[^>]* viewBox="[\d.]+ [\d.]+ ([\d.]+)', page)
    assert max(map(float, widths)) < 72 * 10
    scores = page[page.index('<table class="scores">') :]
    assert all(name in scores for name in long), "the table has them whole"
    assert re.search(r"tbody th \{[^}]*overflow-wrap: anywhere", page)


def test_what_a_run_says_of_the_model_it_made_stands_under_its_name(tmp_path):
    made.prune(tmp_path, "wanda", 0.5)
    runs = find([tmp_path])
    assert loose_tables(runs, runs)[0].heads == [("wanda-0.5", "")]
