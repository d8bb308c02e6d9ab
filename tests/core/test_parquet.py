"""Parquet shards as people have them: any column of texts, any id, names that stand twice."""

from datetime import date
from decimal import Decimal
from uuid import UUID

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from treadle.core.errors import DataError
from treadle.core.table import batches_of, open_source

TEXTS = {
    "string": pa.string(),
    "large": pa.large_string(),
    "view": pa.string_view(),
    "dictionary": pa.dictionary(pa.int32(), pa.string()),
    "binary": pa.binary(),
    "large binary": pa.large_binary(),
    "binary view": pa.binary_view(),
}
NAME = UUID(int=5)
LONG = pa.array([Decimal(10**30 + n) for n in (1, 2)])
LONG_DIGITS = [str(10**30 + n) for n in (1, 2)]
IDS = {
    "uint64": (pa.array([2**64 - 1, 2**64 - 2], pa.uint64()), [str(2**64 - 1), str(2**64 - 2)]),
    "decimal": (pa.array([Decimal(10**30 + n) for n in (1, 2)]), [str(10**30 + n) for n in (1, 2)]),
    "long decimal": (LONG.cast(pa.decimal128(38, 0)), LONG_DIGITS),
    "longer decimal": (LONG.cast(pa.decimal256(76, 2)), [f"{one}.00" for one in LONG_DIGITS]),
    "dictionary of decimals": (
        pa.DictionaryArray.from_arrays(pa.array([1, 0]), LONG.cast(pa.decimal128(38, 0))),
        LONG_DIGITS[::-1],
    ),
    "float": (pa.array([7.0, float("nan")]), ["7", None]),
    "large float": (pa.array([1e20, 1e20 + 2**14]), ["1e+20", "1.0000000000000002e+20"]),
    "nanoseconds": (
        pa.array([1, 2], pa.timestamp("ns")),
        ["1970-01-01 00:00:00.000000001", "1970-01-01 00:00:00.000000002"],
    ),
    "a zone that nobody knows": (
        pa.array([1603585800, 1603589400], pa.timestamp("us", "Nowhere/Land")),
        ["1970-01-01 00:26:43.585800Z", "1970-01-01 00:26:43.589400Z"],
    ),
    "beyond all calendars": (pa.array([2**62, None], pa.timestamp("ms")), [str(2**62), None]),
    "time": (pa.array([1, 2], pa.time64("ns")), ["00:00:00.000000001", "00:00:00.000000002"]),
    "duration": (pa.array([1, 2], pa.duration("ns")), ["1", "2"]),
    "truth": (pa.array([True, False]), [None, None]),
    "bool8": (pa.ExtensionArray.from_storage(pa.bool8(), pa.array([1, 0], pa.int8())), [None] * 2),
    "binary": (pa.array([b"a", b"\xff"]), ["a", "\\xff"]),
    "digest": (pa.array([b"\xff\x00", None], pa.binary(2)), ["ff00", None]),
    "uuid": (pa.array([NAME.bytes, None], pa.uuid()), [str(NAME), None]),
    "date": (pa.array([date(2026, 1, 2), None]), ["2026-01-02", None]),
    "null": (pa.nulls(2), [None, None]),
    "dictionary": (pa.array(["a", "b"]).dictionary_encode(), ["a", "b"]),
}


def read(file, **columns):
    opened = open_source(file, **columns)
    found = [batch for unit in opened.units for batch in batches_of(opened, unit)]
    rows = [row for batch in found for row in batch.table.to_pylist()]
    return rows, [r for b in found for r in b.rejects], [m for b in found for m in b.mended]


def write(tmp_path, names, arrays, **options):
    file = tmp_path / "a.parquet"
    pq.write_table(pa.Table.from_arrays(arrays, names=names), file, **options)
    return file


def broken(kind):
    """Return strings of which the second is no UTF-8, which Arrow does not check."""
    offsets = np.array([0, 1, 3], np.int64 if kind == pa.large_string() else np.int32)
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(b"a\xff\xfe")]
    return pa.Array.from_buffers(kind, 2, buffers)


@pytest.mark.parametrize("name", TEXTS)
def test_any_column_of_texts_is_read(tmp_path, name):
    texts = pa.array(["one", None, "two"]).cast(TEXTS[name])
    file = write(tmp_path, ["text", "other"], [texts, texts])
    rows, rejects, _ = read(file)
    assert [row["text"] for row in rows] == ["one", "two"]
    assert len({str(row["other"]) for row in rows}) == 2
    assert [(r.row, r.reason) for r in rejects] == [(1, "empty")]


@pytest.mark.parametrize("name", ["binary", "string", "large", "view of bytes"])
def test_a_text_that_is_no_utf8_is_one_record(tmp_path, name):
    kinds = {"string": pa.string(), "large": pa.large_string()}
    texts = broken(kinds[name]) if name in kinds else pa.array([b"a", b"\xff\xfe"])
    texts = texts.cast(pa.binary_view()) if name == "view of bytes" else texts
    rows, rejects, _ = read(write(tmp_path, ["text"], [texts]))
    assert [row["text"] for row in rows] == ["a"]
    assert [(r.row, r.reason) for r in rejects] == [(1, "not UTF-8")]


def test_another_column_costs_no_document(tmp_path):
    nested = pa.StructArray.from_arrays([broken(pa.string())], ["x"])
    arrays = [pa.array(["t", "u"]), broken(pa.string()), nested, broken(pa.string())]
    rows, rejects, mended = read(write(tmp_path, ["text", "plain", "nested", "id"], arrays))
    assert [row["plain"] for row in rows] == ["a", "\ufffd\ufffd"]
    assert [row["nested"] for row in rows] == [{"x": "a"}, None]
    assert [row["id"] for row in rows] == ["a", "\\xff\\xfe"]
    assert not rejects
    assert {one.row for one in mended} == {1}
    assert len(mended) == 2


@pytest.mark.parametrize("name", IDS)
def test_ids_keep_every_digit(tmp_path, name):
    ids, expected = IDS[name]
    rows, rejects, _ = read(write(tmp_path, ["id", "text"], [ids, pa.array(["t", "u"])]))
    assert not rejects
    for row, wanted in zip(rows, expected, strict=True):
        assert row["id"] == wanted if wanted is not None else row["id"].startswith("xxh3:")


def test_of_two_columns_of_one_name_the_first_is_read(tmp_path):
    arrays = [pa.array(["t"]), pa.array([1]), pa.array(["x"]), pa.array(["second"])]
    file = write(tmp_path, ["text", "n", "n", "text"], arrays)
    rows, _, _ = read(file)
    assert [(row["text"], row["n"]) for row in rows] == [("t", 1)]
    notes = open_source(file).notes
    assert notes == tuple(
        f"Of the columns '{n}' of 'a.parquet' the first is read." for n in ("n", "text")
    )


def test_a_field_of_a_struct_is_a_text(tmp_path):
    file = write(tmp_path, ["meta"], [pa.array([{"text": "t", "id": 5}, {"text": None, "id": 6}])])
    rows, rejects, _ = read(file, text_column="meta.text", id_column="meta.id")
    assert rows == [{"id": "5", "text": "t"}]
    assert [reject.reason for reject in rejects] == ["empty"]
    with pytest.raises(DataError, match=r"no column 'text' \(it has: meta, meta.text, meta.id\)"):
        open_source(file)


def test_row_groups_without_rows_are_no_harm(tmp_path):
    file = tmp_path / "a.parquet"
    empty, full = (pa.table({"text": pa.array(texts, pa.string())}) for texts in ([], ["t", "u"]))
    with pq.ParquetWriter(file, empty.schema) as writer:
        for table in (empty, full, empty):
            writer.write_table(table)
    assert [row["text"] for row in read(file)[0]] == ["t", "u"]


def test_a_changed_page_is_seen_where_it_has_a_checksum(tmp_path):
    settings = {"compression": "none", "use_dictionary": False, "write_page_checksum": True}
    settings["write_statistics"] = False
    file = write(tmp_path, ["text"], [pa.array(["unchanged"])], **settings)
    file.write_bytes(file.read_bytes().replace(b"unchanged", b"UNchanged"))
    with pytest.raises(DataError, match=r"no whole Parquet file: .*CRC"):
        read(file)


def test_an_encrypted_file_is_refused_by_name(tmp_path):
    file = tmp_path / "a.parquet"
    file.write_bytes(b"PARE" + bytes(40) + (20).to_bytes(4, "little") + b"PARE")
    with pytest.raises(DataError, match="is encrypted; decrypt it first"):
        open_source(file)


def test_types_that_differ_between_shards_lose_nothing_unsaid(tmp_path):
    def shards(first, second):
        for name, column in (("a", first), ("b", second)):
            table = pa.table({"id": [name], "text": [f"t {name}"], "n": column})
            pq.write_table(table, tmp_path / f"{name}.parquet")
        return tmp_path

    rows, _, _ = read(shards(pa.array([2**53]), pa.array([0.5])))
    assert [row["n"] for row in rows] == [2.0**53, 0.5]
    with pytest.raises(DataError, match=r"a.parquet' has other types .* Cast the column"):
        read(shards(pa.array([2**53 + 1]), pa.array([0.5])))
    with pytest.raises(DataError, match=r"b.parquet' has other types .* Cast the column"):
        read(shards(pa.array([-1]), pa.array([2**64 - 1], pa.uint64())))
    long = Decimal(10**30 + 1)
    rows, _, _ = read(shards(pa.array([long]), pa.array([2**63 - 1])))
    assert [row["n"] for row in rows] == [long, 2**63 - 1]
    (note,) = open_source(shards(pa.array([long]), pa.array([0.5]))).notes
    assert "'n' is decimal in some shards" in note


def test_where_a_folder_says_something_else_the_record_wins_and_it_is_told(tmp_path):
    (tmp_path / "lang=en").mkdir()
    table = pa.table({"id": ["a", "b", "c"], "text": ["t", "u", "v"], "lang": ["en", "de", None]})
    pq.write_table(table, tmp_path / "lang=en" / "a.parquet")
    rows, _, mended = read(tmp_path)
    assert [row["lang"] for row in rows] == ["en", "de", None]
    assert [one.row for one in mended] == [1, 2]
    assert "the path says gave way" in mended[0].what
