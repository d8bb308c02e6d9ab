"""JSON lines as they were meant: exact numbers, and no document lost for another field."""

import json

import pytest

from treadle.core.table import batches_of, fields_in, open_source
from treadle.native.text import parse_lines

BIG = 12345678901234567890123
MENDED = {
    b'"ppl": NaN': ({"ppl": None}, "such as NaN"),
    b'"ppl": -Infinity, "a": [Infinity]': ({"ppl": None, "a": [None]}, "such as NaN"),
    b'"ppl": nan, "n": 01, "m": +1': ({"ppl": None, "n": None, "m": None}, "such as NaN"),
    b'"n": [1e400, -1e999]': ({"n": [None, None]}, "beyond float64"),
    b'"s": "\\ud83d", "\\ud800": 1': ({"s": "\ufffd", "\\ud800": 1}, "half a surrogate pair"),
    b'"s": "a\xff\xfeb"': ({"s": "a\ufffd\ufffdb"}, "no UTF-8"),
    b'"s": "C:\\data"': ({"s": "C:\\data"}, "escapes nothing"),
    b'"s": "a\tb\x00"': ({"s": "a\tb\x00"}, "control character"),
    b'"a": 1, "b": 2, "a": 3': ({"a": 3, "b": 2}, "stands twice"),
    b'"b": {"a": 1, "a": 2}': ({"b": {"a": 2}}, "stands twice"),
}
DEEP = b'"deep": ' + b"[" * 100_000 + b"]" * 100_000
KEPT = {
    f'"n": {BIG}, "m": {{"k": [-{BIG}]}}': {"n": BIG, "m": {"k": [-BIG]}},
    f'"n": 18446744073709551616, "m": 1{"0" * 400}': {"n": 2**64, "m": 10**400},
    '"n": 0.12345678901234567890123': "0.12345678901234567890123",
    '"n": 1e-400': "1e-400",
    '"n": 1.10, "m": 1E5, "k": -0': {"n": 1.1, "m": 1e5, "k": 0},
}


def read(file, parser, **columns):
    opened = open_source(file, parser=parser, **columns)
    found = [batch for unit in opened.units for batch in batches_of(opened, unit)]
    rows = [row for batch in found for row in batch.table.to_pylist()]
    return rows, [r for b in found for r in b.rejects], [m for b in found for m in b.mended]


def both(file, **columns):
    """Return what the kernel's parser finds, which is what Python finds."""
    found = read(file, parse_lines, **columns)
    assert found == read(file, None, **columns)
    return found


def lines(tmp_path, *rows):
    file = tmp_path / "a.jsonl"
    file.write_bytes(b"\n".join(rows) + b"\n")
    return file


@pytest.mark.parametrize("field", MENDED, ids=range(len(MENDED)))
def test_a_field_that_is_no_json_costs_no_document(tmp_path, field):
    expected, what = MENDED[field]
    good = b'{"id": "b", "text": "after"}'
    rows, rejects, mended = both(lines(tmp_path, b'{"id": "a", "text": "t", ' + field + b"}", good))
    assert [(row["id"], row["text"]) for row in rows] == [("a", "t"), ("b", "after")]
    assert json.loads(rows[0]["meta"]) == expected
    assert not rejects
    (one,) = mended
    assert (one.file, one.row) == ("a.jsonl", 0)
    assert what in one.what


@pytest.mark.parametrize("field", KEPT, ids=range(len(KEPT)))
def test_numbers_keep_their_digits(tmp_path, field):
    rows, _, mended = both(lines(tmp_path, f'{{"id": "a", "text": "t", {field}}}'.encode()))
    meta, expected = rows[0]["meta"], KEPT[field]
    if isinstance(expected, str):
        assert meta == f'{{"n":{expected}}}'
    else:
        assert fields_in(meta) == expected
        assert str(fields_in(meta)) == str(expected)  # no integer became a float
    assert not mended


def test_ids_never_become_floats(tmp_path):
    names = ["1" + "0" * 22 + digit for digit in "0123"] + ["-5", "1e400", "0.1234567890123456789"]
    names += ["1" + "2" * 5000, "18446744073709551615"]
    rows, _, mended = both(
        lines(tmp_path, *(f'{{"id": {name}, "text": "t"}}'.encode() for name in names))
    )
    assert [row["id"] for row in rows] == names
    assert not mended


def test_broken_ids_stay_apart_or_are_made_of_the_text(tmp_path):
    names = (b'"\\ud800"', b'"\\ud801"', b'"\xff"', b"NaN", b"007")
    rows, _, mended = both(lines(tmp_path, *(b'{"id": %s, "text": "t"}' % name for name in names)))
    assert [row["id"] for row in rows[:3]] == ["\\ud800", "\\ud801", "\\udcff"]
    assert all(row["id"].startswith("xxh3:") for row in rows[3:])
    assert [one.row for one in mended] == [0, 1, 2, 3, 4]


def test_what_lies_too_deep_becomes_null(tmp_path):
    rows, rejects, mended = both(lines(tmp_path, b'{"text": "t", ' + DEEP + b', "n": 1}'))
    assert fields_in(rows[0]["meta"])["n"] == 1
    assert rows[0]["meta"].count("[") == 253
    assert "below 254 levels" in mended[0].what
    _, rejects, _ = both(lines(tmp_path, b'{"text": "t", ' + DEEP[:-1] + b"}"))
    assert [reject.reason for reject in rejects] == ["not JSON"]


def test_a_text_is_mended_only_where_its_characters_are_known(tmp_path):
    rows = [
        b'{"text": "half \\ud83d"}',
        b'{"text": "a\x00b\tc"}',
        b'\xef\xbb\xbf{"text": "mark"}',
        b'{"text": "first", "text": "last"}',
        b'{"text": "bytes \xff"}',
        b'{"text": "C:\\data"}',
        b'{"text": NaN}',
    ]
    found, rejects, mended = both(lines(tmp_path, *rows))
    assert [row["text"] for row in found] == ["half \ufffd", "a\x00b\tc", "mark", "last"]
    assert [one.row for one in mended] == [0, 1, 2, 3]
    assert [(r.row, r.reason) for r in rejects] == [
        (4, "not UTF-8"),
        (5, "not JSON"),
        (6, "no text in its field"),
    ]


def test_a_field_in_another_is_a_column(tmp_path):
    row = b'{"meta": {"text": "t", "id": 7, "n": 1}}'
    ((found,), _, _) = both(lines(tmp_path, row), text_column="meta.text", id_column="meta.id")
    assert found == {"id": "7", "text": "t", "meta": '{"meta":{"n":1}}'}


def test_what_is_damaged_at_random_is_read_alike(tmp_path):
    import random

    draw = random.Random(5)
    rows = [b'{"id": 7, "text": "t", ' + field + b"}" for field in MENDED]
    pieces = (b'"', b"\\", b"}", b"[", b",", b"\xff", b"NaN", b"9" * 17, b"\\ud800", b'"a":1,')
    damaged = []
    for _ in range(400):
        row = bytearray(draw.choice(rows))
        place = draw.randrange(len(row))
        row[place : place + draw.choice((0, 0, 1, 3))] = draw.choice(pieces)
        damaged.append(bytes(row))
    for first in range(0, len(damaged), 4):
        both(lines(tmp_path, *damaged[first : first + 4]))
