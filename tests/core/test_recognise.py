"""Files that are not what their names say are told for what they are; .json is what it holds."""

import gzip
import io
import json
import zipfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from treadle.core.errors import DataError
from treadle.core.table import batches_of, open_source

DOCUMENTS = [{"id": f"d{n}", "text": f"text {n}"} for n in range(3)]
LINES = "".join(json.dumps(one) + "\n" for one in DOCUMENTS).encode()
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"a" * 64 + b"\nsize 12345\n"
ANNEX = b"/annex/objects/SHA256E-s3--aa.jsonl\n"
PAGE = b"<!DOCTYPE html><html><body>log in</body></html>"


def zipped():
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("a.jsonl", LINES)
    return content.getvalue()


def parquet():
    content = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(DOCUMENTS), content)
    return content.getvalue()


CONTENTS = {
    "a Git LFS pointer": POINTER,
    "a git-annex pointer": ANNEX,
    "a page of the web": PAGE,
    "packed with gzip": gzip.compress(LINES, mtime=0),
    "packed with zstd": zstandard.compress(LINES),
    "a zip archive": zipped(),
    "a text in UTF-16": LINES.decode().encode("utf-16"),
    "plain JSON": LINES,
    "a Parquet file": parquet(),
}
OWN = {
    ".jsonl": "plain JSON",
    ".ndjson": "plain JSON",
    ".json": "plain JSON",
    ".jsonl.gz": "packed with gzip",
    ".json.gz": "packed with gzip",
    ".jsonl.zst": "packed with zstd",
    ".parquet": "a Parquet file",
    ".warc": "packed with",
    ".warc.gz": "packed with",
}


def read(data, **columns):
    opened = open_source(data, **columns)
    found = [batch for unit in opened.units for batch in batches_of(opened, unit)]
    rows = [row for batch in found for row in batch.table.to_pylist()]
    return rows, [one for batch in found for one in batch.rejects], opened.notes


@pytest.mark.parametrize("what", CONTENTS)
@pytest.mark.parametrize("suffix", OWN)
def test_a_shard_of_another_kind_is_named(tmp_path, suffix, what):
    file = tmp_path / f"x{suffix}"
    file.write_bytes(CONTENTS[what])
    if what.startswith(OWN[suffix]):
        if "warc" not in suffix:
            assert [row["text"] for row in read(file)[0]] == [one["text"] for one in DOCUMENTS]
        return
    if "warc" in suffix and what == "plain JSON":
        what = "damaged"
    for source in (file, tmp_path):
        with pytest.raises(DataError, match=rf"x{suffix}' is {what}"):
            read(source)


@pytest.mark.parametrize(
    ("suffix", "content", "wanted"),
    [
        (".jsonl", gzip.compress(LINES, mtime=0), "name it 'x.jsonl.gz'"),
        (".jsonl.gz", LINES, "name it 'x.jsonl'"),
        (".jsonl.gz", zstandard.compress(LINES), "name it 'x.jsonl.zst'"),
        (".parquet", LINES, "name it 'x.jsonl'"),
        (".jsonl", POINTER, "git lfs pull"),
    ],
)
def test_the_mend_is_the_right_name(tmp_path, suffix, content, wanted):
    (tmp_path / f"x{suffix}").write_bytes(content)
    with pytest.raises(DataError, match=wanted):
        open_source(tmp_path)


def test_in_a_tree_what_is_no_text_is_one_reject(tmp_path):
    contents = {"a.txt": b"a text", "b.txt": POINTER, "c.py": ANNEX, "d.md": "e".encode("utf-16")}
    contents["e.json"] = json.dumps(DOCUMENTS, indent=1).encode()
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    rows, rejects, _ = read(tmp_path)
    assert [row["id"] for row in rows] == ["a.txt"]
    assert [one.file for one in rejects] == ["b.txt", "c.py", "d.md", "e.json"]
    for one, wanted in zip(rejects, ("git lfs pull", "git annex", "UTF-16", "jq -c"), strict=True):
        assert wanted in one.reason


@pytest.mark.parametrize("suffix", [".json", ".json.gz", ".json.zst"])
def test_json_is_read_by_what_it_holds(tmp_path, suffix):
    packed = {".gz": gzip.compress, ".zst": zstandard.compress}.get(suffix[5:], bytes)
    file = tmp_path / f"x{suffix}"
    for content in (LINES, b"\xef\xbb\xbf" + LINES, b"not json\n" + LINES, b"\n" + LINES):
        file.write_bytes(packed(content))
        for source in (file, tmp_path):
            rows, rejects, _ = read(source)
            assert [row["id"] for row in rows] == ["d0", "d1", "d2"]
            assert len(rejects) == (b"not" in content)
    file.write_bytes(packed(json.dumps({"body": "t"}).encode()))
    assert [row["text"] for row in read(tmp_path, text_column="body")[0]] == ["t"]
    others = {
        "array": [json.dumps(DOCUMENTS), json.dumps(DOCUMENTS, indent=1)],
        "value": [json.dumps({"a": DOCUMENTS}, indent=1), '{"name": "x"}', "7", "{"],
    }
    for form, contents in others.items():
        for content in contents:
            file.write_bytes(packed(content.encode()))
            for source in (file, tmp_path):
                with pytest.raises(
                    DataError, match=rf"is one JSON {form}, not lines .*jq -c '\.\["
                ):
                    read(source)


def test_json_beside_shards_is_a_shard_or_named(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(LINES)
    (tmp_path / "b.json").write_bytes(LINES.replace(b"d", b"e"))
    (tmp_path / "c.json").write_text('{"version": 1}')
    rows, _, (note,) = read(tmp_path)
    assert len(rows) == 6
    assert note.startswith("1 files beside the shards")
    assert "('c.json' is one value)" in note
    (tmp_path / "c.json").write_bytes(POINTER)
    with pytest.raises(DataError, match=r"c.json' is a Git LFS pointer"):
        open_source(tmp_path)


def test_a_tree_with_configurations_stays_one(tmp_path):
    (tmp_path / "a.py").write_text("print()")
    (tmp_path / "b.json").write_text('{"name": "x"}')
    rows, _, notes = read(tmp_path)
    assert [row["id"] for row in rows] == ["a.py", "b.json"]
    assert "1 files" in notes[0]


def test_columns_that_documents_have_of_their_own_are_not_taken_from_folders(tmp_path):
    for name in ("text=a", "id=7", "lang=en"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.jsonl").write_text('{"id": "a", "text": "t", "lang": "de"}\n')
    rows, _, notes = read(tmp_path)
    assert [row["text"] for row in rows] == ["t"] * 3
    assert [note.partition(":")[0] for note in notes] == [
        "Folders such as 'id=7/a.jsonl' say no column 'id'",
        "Folders such as 'text=a/a.jsonl' say no column 'text'",
    ]
    opened = open_source(tmp_path)
    mended = [m for u in opened.units for b in batches_of(opened, u) for m in b.mended]
    assert [(one.file, one.what[:29]) for one in mended] == [
        ("lang=en/a.jsonl", "a column that the path says g")
    ]
