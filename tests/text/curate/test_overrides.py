"""Rules for one source: they replace those for all, in one direction, and say so."""

import pytest
from tests.text.curate import corpora

from treadle import curate
from treadle.core.errors import DataError, SettingsError
from treadle.text.curate import METHODS

ROWS = [
    {"id": f"{source}-{size}", "text": "word " * size, "source": source}
    for source in ("web", "wiki", "poem")
    for size in (5, 30, 200)
]
SETTINGS = {
    "method": "rules",
    "preset": (),
    "drop": ("num_words<20", "num_words>100", "mean_word_length>9"),
    "override": ("wiki: num_words<50", "poem: num_words"),
}
EXPECTED = {
    "web-5": "num_words < 20",
    "web-30": None,
    "web-200": "num_words > 100",
    "wiki-5": "num_words < 50 in wiki",
    "wiki-30": "num_words < 50 in wiki",
    "wiki-200": "num_words > 100",
    "poem-5": None,
    "poem-30": None,
    "poem-200": None,
}


@pytest.mark.parametrize("write", [corpora.write_lines, corpora.write_parquet])
def test_each_source_has_its_rules(tmp_path, write):
    file = tmp_path / ("a.jsonl" if write is corpora.write_lines else "a.parquet")
    curate(write(file, ROWS), tmp_path / "out", SETTINGS)
    found = corpora.decisions(tmp_path / "out")
    assert {name: row["drop_reason"] for name, row in found.items()} == EXPECTED


def test_overrides_apply_later_without_measuring(tmp_path):
    data = corpora.write_lines(tmp_path / "a.jsonl", ROWS)
    curate(data, tmp_path / "plain", {"method": "rules"})
    curate(data, tmp_path / "out", SETTINGS, statistics=tmp_path / "plain")
    found = corpora.decisions(tmp_path / "out")
    assert {name: row["drop_reason"] for name, row in found.items()} == EXPECTED


def test_a_source_that_no_document_has_changes_nothing(tmp_path):
    data = corpora.write_lines(tmp_path / "a.jsonl", ROWS)
    curate(data, tmp_path / "one", {**SETTINGS, "override": ()})
    curate(data, tmp_path / "two", {**SETTINGS, "override": ("books: num_words<1000",)})
    one, two = (corpora.decisions(tmp_path / name) for name in ("one", "two"))
    assert one == two


def test_the_source_may_stand_elsewhere(tmp_path):
    rows = [{"id": row["id"], "text": row["text"], "from": row["source"]} for row in ROWS]
    data = corpora.write_lines(tmp_path / "a.jsonl", rows)
    curate(data, tmp_path / "out", {**SETTINGS, "source_column": "from"})
    found = corpora.decisions(tmp_path / "out")
    assert {name: row["drop_reason"] for name, row in found.items()} == EXPECTED
    table = corpora.write_parquet(tmp_path / "b.parquet", rows)
    with pytest.raises(DataError, match=r"no column 'source' to tell sources by .*--source-column"):
        curate(table, tmp_path / "no", SETTINGS)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("num_words<20", "names no source; write SOURCE: RULE"),
        (": num_words<20", "names no source"),
        ("wiki: num_wrds<20", "no statistic 'num_wrds'"),
        ("wiki: alpha_word_fraction", "no rule on 'alpha_word_fraction' to waive"),
    ],
)
def test_overrides_that_say_nothing_are_refused(text, message):
    with pytest.raises(SettingsError, match=message):
        METHODS.resolve({**SETTINGS, "override": (text,)})
