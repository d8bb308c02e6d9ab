"""Which files a source is: patterns, links, partitions; what is left unread is said."""

import gzip
import json
import os
import re

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from treadle.core.errors import DataError
from treadle.core.table import batches_of, open_source
from treadle.native.text import parse_lines


def read(data, **columns):
    found = []
    for parser in (None, parse_lines):
        opened = open_source(data, parser=parser, **columns)
        tables = [batch.table for unit in opened.units for batch in batches_of(opened, unit)]
        found.append([row for table in tables for row in table.to_pylist()])
    assert found[0] == found[1]
    return found[0], opened.notes


def names(data):
    return [row["id"] for row in read(data)[0]]


def line(file, **fields):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({"text": "t", **fields}) + "\n")
    return file


@pytest.fixture
def partitioned(tmp_path):
    for lang in ("en", "de", "a%2Fb", "__HIVE_DEFAULT_PARTITION__"):
        folder = tmp_path / "data" / f"lang={lang}" / "year=07"
        line(folder / "a.jsonl", id=f"l-{lang}")
        table = {"id": [f"p-{lang}"], "text": ["t"]}
        pq.write_table(pa.table(table), folder / "b.parquet")
    line(tmp_path / "data" / "lang=en" / "own.jsonl", id="own", lang="its own")
    pq.write_table(
        pa.table({"id": ["p-own"], "text": ["t"], "lang": ["its own"]}),
        tmp_path / "data" / "lang=en" / "own.parquet",
    )
    return tmp_path / "data"


def test_folders_that_say_a_column_are_one(partitioned):
    rows, notes = read(partitioned)
    assert not notes
    said = {}
    for row in rows:
        fields = json.loads(row["meta"]) if row["meta"] else row
        said[row["id"]] = fields["lang"], fields.get("year")
    for kind in "lp":
        assert said[f"{kind}-en"] == ("en", "07")
        assert said[f"{kind}-a%2Fb"] == ("a/b", "07")
        assert said[f"{kind}-__HIVE_DEFAULT_PARTITION__"] == (None, "07")
    assert said["own"] == said["p-own"] == ("its own", None)


@pytest.mark.parametrize("named", ["", "year=07/*.jsonl", "year=07/a.jsonl"])
def test_a_source_inside_such_a_folder_has_its_column(partitioned, named):
    rows, _ = read(partitioned / "lang=de" / named)
    found = next(row for row in rows if row["id"] == "l-de")
    assert json.loads(found["meta"]) == {"lang": "de", "year": "07"}


def test_no_path_says_an_id_or_a_text(tmp_path):
    line(tmp_path / "data" / "id=5" / "text=6" / "body=7" / "a.jsonl", body="b")
    ((row,), _) = read(tmp_path / "data", text_column="body")
    assert row["id"].startswith("xxh3:")
    assert row["text"] == "b"
    assert json.loads(row["meta"]) == {"text": "t"}


def test_a_tree_has_the_columns_of_its_folders(tmp_path):
    (tmp_path / "t" / "lang=en").mkdir(parents=True)
    (tmp_path / "t" / "lang=en" / "a.txt").write_text("in")
    (tmp_path / "t" / "b.txt").write_text("out")
    rows, _ = read(tmp_path / "t")
    assert [(row["id"], row["meta"]) for row in rows] == [
        ("b.txt", None),
        ("lang=en/a.txt", '{"lang":"en"}'),
    ]


def test_links_are_followed_once(tmp_path):
    line(tmp_path / "far" / "a.jsonl", id="far")
    line(tmp_path / "one.jsonl", id="one")
    source = tmp_path / "source"
    line(source / "near" / "b.jsonl", id="near")
    (source / "far").symlink_to(tmp_path / "far")
    (source / "one.jsonl").symlink_to(tmp_path / "one.jsonl")
    assert names(source) == ["far", "near", "one"]
    assert not read(source)[1]
    (source / "near" / "around").symlink_to(source)
    (source / "up").symlink_to(tmp_path)
    (tmp_path / "far" / "around").symlink_to(tmp_path / "far")
    (source / "again").symlink_to(source / "near")
    assert names(source) == ["far", "near", "one"]
    assert any("4 entries" in note and "links to a folder" in note for note in read(source)[1])
    assert names(f"{source}/**/*.jsonl") == ["far", "near", "one"]


def test_what_is_left_unread_is_said(tmp_path):
    line(tmp_path / "a.jsonl", id="a")
    line(tmp_path / ".cache" / "b.jsonl")
    line(tmp_path / ".c.jsonl")
    (tmp_path / "gone.jsonl").symlink_to(tmp_path / "absent")
    os.mkfifo(tmp_path / "pipe.jsonl")
    rows, notes = read(tmp_path)
    assert [row["id"] for row in rows] == ["a"]
    for what in ("2 entries .*: hidden", "1 entries .*: links that", "1 entries .*: neither"):
        assert any(re.search(what, note) for note in notes)


def test_a_folder_that_cannot_be_looked_into_is_refused(tmp_path, monkeypatch):
    line(tmp_path / "closed" / "a.jsonl")
    line(tmp_path / "b.jsonl")
    real = os.scandir

    def scan(path):
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scan)
    with pytest.raises(DataError, match=r"closed' cannot be read \(Permission denied\); change"):
        open_source(tmp_path)


def test_a_file_that_cannot_be_read_is_refused(tmp_path, monkeypatch):
    from treadle.core.table import source

    def closed(*_):
        raise PermissionError(13, "Permission denied", "a.jsonl.gz")

    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(b""))
    monkeypatch.setattr(source, "_hash", closed)
    with pytest.raises(DataError, match=r"'a.jsonl.gz' cannot be read .* change its permissions"):
        open_source(tmp_path)


def test_patterns(tmp_path):
    for name in ("a", "b", "c"):
        line(tmp_path / "data" / f"{name}.jsonl", id=name)
    line(tmp_path / "data" / "deep" / "er" / "d.jsonl", id="d")
    (tmp_path / "data" / "b.txt").write_text("beside")
    assert names(tmp_path / "data" / "[ab].jsonl") == ["a", "b"]
    assert names(f"{tmp_path}/data/a.jsonl + {tmp_path}/*/?.jsonl") == ["a", "a", "b", "c"]
    assert names(tmp_path / "data" / "**" / "*.jsonl") == ["a", "b", "c", "d"]
    assert names(tmp_path / "**") == ["a", "b", "c", "d"]
    assert names(tmp_path / "data" / "*") == ["a", "b", "c", "d"]
    assert "1 files beside the shards" in read(tmp_path / "data" / "*")[1][0]
    with pytest.raises(DataError, match=r"Nothing matches '.*x\*'; look at the folder"):
        open_source(tmp_path / "x*")
    line(tmp_path / "data" / "[ab].jsonl", id="of that name")
    assert names(tmp_path / "data" / "[ab].jsonl") == ["of that name"]


@pytest.mark.parametrize(
    ("name", "mend"),
    [
        ("a.tar.gz", "unpack it and give the folder"),
        ("a.ZIP", "unpack it and give the folder"),
        ("a.jsonl.bz2", "compress JSON lines with gzip or zstd"),
        ("a.gz", "name them .jsonl.gz or .jsonl.zst"),
        ("a.arrow", "convert it to Parquet or JSON lines"),
    ],
)
def test_what_has_to_be_unpacked_is_refused_with_the_mend(tmp_path, name, mend):
    file = tmp_path / "only" / name
    file.parent.mkdir()
    file.write_bytes(b"\x1f\x8b\0")
    for data in (file, file.parent):
        with pytest.raises(DataError, match=f"{name}' is of a kind that is not read; .*{mend}"):
            open_source(data)
    (file.parent / "a.txt").write_text("text")
    assert any("of a kind that is not read" in note for note in open_source(file.parent).notes)


def test_a_name_that_is_no_utf8_is_an_id(tmp_path):
    with open(os.fsencode(tmp_path) + b"/\xff.txt", "w") as stream:
        stream.write("t")
    assert names(tmp_path) == ["\\xff.txt"]
