"""Readers give the same documents whatever holds them, and a reason for everything else."""

import gzip
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import xxhash
import zstandard

from treadle.core.errors import CapacityError, DataError
from treadle.core.table import batches, batches_of, cut, open_source, parts, source
from treadle.core.table import packed as table_packed
from treadle.native.text import parse_lines

ROWS = [{"id": f"n{i}", "text": f"text {i} 中文\n", "url": f"u{i}"} for i in range(50)]
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS).encode()


def documents(data, **columns):
    opened = open_source(data, **columns)
    read = [batch for unit in opened.units for batch in batches_of(opened, unit)]
    table = pa.concat_tables([batch.table for batch in read])
    return table.to_pylist(), [reject for batch in read for reject in batch.rejects]


def made_of(text):
    return f"xxh3:{xxhash.xxh3_128_hexdigest(text.encode())}"


@pytest.mark.parametrize("unit_bytes", [1, 100, 1 << 20])
@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz", ".jsonl.zst"])
def test_lines_are_read_whole_however_they_are_cut(tmp_path, monkeypatch, suffix, unit_bytes):
    monkeypatch.setattr(source, "_UNIT_BYTES", unit_bytes)
    monkeypatch.setattr(table_packed, "_CHUNK_BYTES", 7)
    monkeypatch.setattr(table_packed, "_COMPRESSED_BYTES", 5)
    packed = {".gz": gzip.compress, ".zst": zstandard.compress}.get(suffix[-3:], bytes)
    packed = zstandard.compress if suffix.endswith(".zst") else packed
    file = tmp_path / f"docs{suffix}"
    file.write_bytes(packed(LINES))
    found, rejects = documents(file)
    assert not rejects
    assert [(row["id"], row["text"]) for row in found] == [(r["id"], r["text"]) for r in ROWS]
    assert [json.loads(row["meta"])["url"] for row in found] == [row["url"] for row in ROWS]


@pytest.mark.parametrize("parser", [None, parse_lines])
@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz", ".jsonl.zst"])
def test_a_byte_order_mark_costs_no_document(tmp_path, monkeypatch, suffix, parser):
    monkeypatch.setattr(table_packed, "_CHUNK_BYTES", 2)
    monkeypatch.setattr(table_packed, "_COMPRESSED_BYTES", 2)
    packed = {".gz": gzip.compress, "zst": zstandard.compress}.get(suffix[-3:], bytes)
    file = tmp_path / f"docs{suffix}"
    for unit_bytes in (1, 1 << 20):
        monkeypatch.setattr(source, "_UNIT_BYTES", unit_bytes)
        file.write_bytes(packed(b"\xef\xbb\xbf" + LINES + b"no json\n"))
        found, rejects = documents(file, parser=parser)
        assert [(row["id"], row["text"]) for row in found] == [(r["id"], r["text"]) for r in ROWS]
        assert [(r.row, r.reason) for r in rejects] == [(len(ROWS), "not JSON")]
    file.write_bytes(packed(b"\xef\xbb\xbf"))
    opened = open_source(file, parser=parser)
    assert not [batch for unit in opened.units for batch in batches_of(opened, unit)]


def mended_of(data, **columns):
    opened = open_source(data, **columns)
    return [m for unit in opened.units for batch in batches_of(opened, unit) for m in batch.mended]


@pytest.mark.parametrize("parser", [None, parse_lines])
def test_what_is_no_id_costs_no_document(tmp_path, parser):
    bad = {'{"a": 1}': "no text or number", "true": "no text or number", '""': "empty", "[]": "no"}
    names = [*bad, '"a"', "7", "null"]
    content = "".join(f'{{"id": {name}, "text": "t{n}"}}\n' for n, name in enumerate(names))
    (tmp_path / "a.jsonl").write_text(content)
    found, rejects = documents(tmp_path / "a.jsonl", parser=parser)
    made = [made_of(f"t{n}") for n in range(len(names))]
    assert [row["id"] for row in found] == [*made[:4], "a", "7", made[6]]
    assert not rejects
    mended = mended_of(tmp_path / "a.jsonl", parser=parser)
    for number, (one, what) in enumerate(zip(mended, bad.values(), strict=True)):
        assert one.row == number
        assert what in one.what
        assert "hash of the text" in one.what


def test_what_is_no_id_in_parquet_costs_no_document(tmp_path):
    file = tmp_path / "a.parquet"
    pq.write_table(pa.table({"id": ["a", "", None, ""], "text": ["t", "u", "v", " "]}), file)
    found, rejects = documents(file)
    assert [row["id"] for row in found] == ["a", made_of("u"), made_of("v")]
    assert [(r.row, r.reason) for r in rejects] == [(3, "empty")]
    assert [(m.row, m.what[:11]) for m in mended_of(file)] == [(1, "an empty id")]
    for wrong in ([True, None], [{"a": 1}, None], [[1], None], [[("k", 1)], None]):
        kind = pa.map_(pa.string(), pa.int64()) if wrong[0] == [("k", 1)] else None
        pq.write_table(pa.table({"id": pa.array(wrong, kind), "text": ["t", "u"]}), file)
        found, rejects = documents(file)
        assert [row["id"] for row in found] == [made_of("t"), made_of("u")]
        assert not rejects
        assert [(m.row, m.what[:30]) for m in mended_of(file)] == [
            (0, "an id that is no text or numbe")
        ]


def test_a_large_file_is_cut_into_units(tmp_path, monkeypatch):
    monkeypatch.setattr(source, "_UNIT_BYTES", 100)
    file = tmp_path / "docs.jsonl"
    file.write_bytes(LINES)
    units = open_source(file).units
    assert len(units) > 10
    assert [unit.stop for unit in units[:-1]] == [unit.start for unit in units[1:]]
    assert units[-1].stop == len(LINES)


def test_a_missing_id_is_made_of_the_text_wherever_it_lies(tmp_path, monkeypatch):
    monkeypatch.setattr(source, "_UNIT_BYTES", 30)
    (tmp_path / "docs.jsonl").write_text('{"text": "a b"}\n\n{"text": "c", "id": 7}\n{"text": "d"}')
    found, _ = documents(tmp_path)
    names = [made_of(text) for text in ("a b", "x", "d")]
    assert [row["id"] for row in found] == [names[0], "7", names[2]]
    pq.write_table(pa.table({"text": ["x", "d"]}), tmp_path / "more.parquet", row_group_size=1)
    found, _ = documents(tmp_path)
    assert [row["id"] for row in found][3:] == names[1:]


def test_every_bad_record_has_a_reason_and_a_place(tmp_path, monkeypatch):
    monkeypatch.setattr(batches, "MAX_DOCUMENT_BYTES", 60)
    bad = {
        b'{"text": "cut': "not JSON",
        b'{"text": "\xff\xfe"}': "not UTF-8",
        b'{"body": "x"}': "no text in its field",
        b'{"text": 5}': "no text in its field",
        b'{"text": null}': "no text in its field",
        b'["text"]': "not a JSON object",
        b'{"text": " \\n "}': "empty",
        b'{"text": ""}': "empty",
        b'{"text": "' + b"x" * 90 + b'"}': "longer than a document may be",
    }
    lines = b"\n".join([*bad, b'{"text": "good"}'])
    for name, content in {"a.jsonl": lines, "b.jsonl.gz": gzip.compress(lines)}.items():
        (tmp_path / name).write_bytes(content)
    found, rejects = documents(tmp_path)
    assert [row["text"] for row in found] == ["good", "good"]
    for name in ("a.jsonl", "b.jsonl.gz"):
        reasons = [(r.row, r.reason) for r in rejects if r.file == name]
        assert reasons == list(enumerate(bad.values()))


def test_parquet_gives_the_other_columns_and_refuses_empty_texts(tmp_path):
    rows = {
        "doc": ["a", None, " \n", "d", "x" * 80 + "\n"],
        "id": [1, 2, 3, None, 5],
        "n": range(5),
    }
    pq.write_table(pa.table({k: list(v) for k, v in rows.items()}), tmp_path / "a.parquet")
    found, rejects = documents(tmp_path, text_column="doc")
    assert [(r["id"], r["n"]) for r in found] == [("1", 0), (made_of("d"), 3), ("5", 4)]
    assert [(r.row, r.reason) for r in rejects] == [(1, "empty"), (2, "empty")]


def test_shards_of_different_columns_are_read_together_or_refused(tmp_path):
    pq.write_table(
        pa.table({"text": ["a"], "n": pa.array([1], pa.int32())}), tmp_path / "a.parquet"
    )
    pq.write_table(pa.table({"text": ["b"], "n": [2], "m": ["x"]}), tmp_path / "b.parquet")
    found, _ = documents(tmp_path)
    assert [(r["n"], r["m"]) for r in found] == [(1, None), (2, "x")]
    pq.write_table(pa.table({"text": ["b"], "n": ["two"]}), tmp_path / "c.parquet")
    with pytest.raises(DataError, match=r"columns of '.*c.parquet' do not fit"):
        open_source(tmp_path)


def test_a_tree_is_a_document_a_file(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "config").write_text("hidden")
    (tmp_path / "sub" / "b.py").write_text("print()")
    (tmp_path / "a.txt").write_bytes("\ufeffé".encode())
    (tmp_path / "c.bin").write_bytes(b"ab\0c")
    (tmp_path / "d.txt").write_bytes(b"\xff")
    (tmp_path / "e.txt").write_bytes(b"")
    found, rejects = documents(tmp_path)
    assert [(r["id"], r["text"]) for r in found] == [("a.txt", "é"), ("sub/b.py", "print()")]
    assert {(r.file, r.reason) for r in rejects} == {
        ("c.bin", "binary"),
        ("d.txt", "not UTF-8"),
        ("e.txt", "empty"),
    }


@pytest.mark.parametrize("suffix", [".jsonl.gz", ".jsonl.zst"])
@pytest.mark.parametrize("harm", ["cut", "changed"])
def test_damaged_compressed_file_is_refused_by_name(tmp_path, suffix, harm):
    pack = (
        gzip.compress
        if suffix.endswith("gz")
        else zstandard.ZstdCompressor(write_checksum=True).compress
    )
    packed = bytearray(pack(LINES))
    if harm == "cut":
        del packed[-8:]
    else:
        packed[len(packed) // 2] ^= 0x55
    (tmp_path / f"a{suffix}").write_bytes(packed)
    with pytest.raises(DataError, match=rf"a{suffix}' is damaged: .*Fetch the file again"):
        documents(tmp_path)


def test_damaged_parquet_and_missing_columns_are_refused(tmp_path):
    file = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": ["a"], "n": [1]}), file)
    with pytest.raises(DataError, match=r"no column 'body' \(it has: text, n\); name the one"):
        open_source(file, text_column="body")
    with pytest.raises(DataError, match="holds int64, expected strings"):
        open_source(file, text_column="n")
    file.write_bytes(file.read_bytes()[:-5])
    with pytest.raises(DataError, match="no whole Parquet file"):
        open_source(file)


def test_nothing_to_read_is_refused(tmp_path):
    with pytest.raises(DataError, match="No documents at"):
        open_source(tmp_path / "absent")
    with pytest.raises(DataError, match="holds no documents"):
        open_source(tmp_path)


def test_files_beside_shards_are_named_in_a_note(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(LINES)
    (tmp_path / "README.md").write_text("about")
    assert "1 files beside the shards" in open_source(tmp_path).notes[0]


@pytest.mark.parametrize("name", ["c.csv", "c.TSV"])
def test_a_table_is_no_text(tmp_path, name):
    file = tmp_path / name
    file.write_text('[{"id": "a", "text": "x"}]')
    with pytest.raises(DataError, match=r"would be one text.*convert it to JSON lines \(\.jsonl\)"):
        open_source(file)
    (tmp_path / "a.jsonl").write_bytes(LINES)
    with pytest.raises(DataError, match="would be one text"):
        open_source(f"{tmp_path / 'a.jsonl'} + {file}")


def test_tables_in_a_tree_are_named_in_a_note(tmp_path):
    (tmp_path / "a.py").write_text("print()")
    assert not open_source(tmp_path).notes
    (tmp_path / "b.json").write_text("[1]")
    (tmp_path / "c.csv").write_text("text\nx\n")
    found, _ = documents(tmp_path)
    assert [row["id"] for row in found] == ["a.py", "b.json", "c.csv"]
    (note,) = open_source(tmp_path).notes
    assert "2 files" in note
    assert "(the first: 'b.json')" in note
    (tmp_path / "d.jsonl").write_bytes(LINES)
    (note,) = open_source(tmp_path).notes
    assert "3 files beside the shards" in note


def test_cuts_follow_documents_and_bytes(monkeypatch):
    monkeypatch.setattr(parts, "_GROUP_DOCUMENTS", 4)
    monkeypatch.setattr(parts, "_GROUP_BYTES", 100)
    monkeypatch.setattr(parts, "_PART_GROUPS", 2)
    found = cut(np.array([30, 30, 30, 30, 500, 1, 1, 1, 1, 1]))
    assert found.groups.tolist() == [3, 4, 5, 9, 10]
    assert found.parts.tolist() == [2, 4, 5]
    assert [found.bounds(part) for part in range(3)] == [(0, 4), (4, 9), (9, 10)]
    assert found.edges(1).tolist() == [4, 5, 9]
    assert len(cut(np.zeros(0, np.int64)).parts) == 0


def test_a_full_disk_is_said_so(tmp_path):
    with (
        pytest.raises(CapacityError, match=r"disk is full while writing .*a'; free some space"),
        parts.refuse_full_disk(tmp_path / "a"),
    ):
        raise OSError(28, "No space left on device")


def test_several_sources_are_read_as_one(tmp_path):
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    for name in ("one", "two"):
        (tmp_path / name / "README").write_text(f"of {name}")
    (tmp_path / "a.jsonl").write_bytes(LINES)
    found, _ = documents(f"{tmp_path / 'one'} + {tmp_path / 'a.jsonl'} + {tmp_path / 'two'}")
    assert [row["id"] for row in found] == ["one/README", *(r["id"] for r in ROWS), "two/README"]
    (tmp_path / "x + y").mkdir()
    (tmp_path / "x + y" / "b").write_text("a folder of that name")
    assert [row["id"] for row in documents(tmp_path / "x + y")[0]] == ["b"]
    with pytest.raises(DataError, match=r"No documents at .*absent'"):
        open_source(f"{tmp_path / 'one'} + {tmp_path / 'absent'}")


def test_a_tree_with_a_shard_by_chance_is_a_tree(tmp_path):
    for number in range(20):
        (tmp_path / f"page{number:02d}.txt").write_text(f"page {number}")
    (tmp_path / "example.jsonl").write_text('{"text": "x"}')
    (tmp_path / "link.txt").symlink_to(tmp_path / "absent")
    found, rejects = documents(tmp_path)
    assert len(found) == 21
    assert found[0]["text"] == '{"text": "x"}'
    assert not rejects
