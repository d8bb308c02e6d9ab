"""The parser of JSON lines says what Python says, or leaves the line to it."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from treadle.core.table import batches_of, open_source
from treadle.native import text as kernels
from treadle.native.loader import library

pytestmark = pytest.mark.skipif(library("text") is None, reason="no machine code here")

STRINGS = st.text(st.characters(codec="utf-8"), max_size=80)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**15), 10**15) | STRINGS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(STRINGS, inner, max_size=3),
    max_leaves=6,
)
ODD = (
    '{"text": "a", "x": tru}',
    '{"text": "a", "x": [1, {]}}',
    '{"text": "a",}',
    '{"text": "a"} {',
    '{"text": "a"',
    '{"text": "a\\"}',
    '{"text": "tab\there"}',
    '{"text": "\\ud800"}',
    '{"text": "\\ud83d\\ude00 \\u00e9 \\u0041\\/"}',
    '{"text": "a", "text": "b"}',
    '{"te\\u0078t": "a"}',
    '{"text": "a", "id": -1}',
    '{"text": "a", "id": 012}',
    '{"text": "a", "id": 1.5}',
    '{"text": "a", "id": ""}',
    '{"text": "a", "id": null}',
    '{"text": "a", "id": {"b": [1]}}',
    '{"text": 5}',
    "{}",
    "[1]",
    "  ",
    '{ "id" :  3 ,\t"text" : " b " , "n" : {"}": "]"} }\r',
    '{"text": "\u3000\u2028\u00a0 "}',
    '{"text": "\u3000x", "a": 1e400}',
)


def read(file, parser):
    opened = open_source(file, parser=parser)
    found = [batch for unit in opened.units for batch in batches_of(opened, unit)]
    rows = [row for batch in found for row in batch.table.to_pylist()]
    return rows, [reject for batch in found for reject in batch.rejects]


def assert_same(tmp_path, content):
    file = tmp_path / "docs.jsonl"
    file.write_bytes(content)
    assert read(file, kernels.parse_lines) == read(file, None)


@pytest.mark.parametrize("line", ODD)
def test_odd_lines_are_read_alike(tmp_path, line):
    good = '{"id": "g", "text": "good"}'
    assert_same(tmp_path, "\n".join([good, line, good]).encode())


@pytest.mark.parametrize(
    "sequence", [b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xe4\xb8", b"\xff"]
)
@pytest.mark.parametrize("padding", [0, 29, 31, 64])
def test_what_is_no_utf8_is_refused_alike(tmp_path, sequence, padding):
    assert_same(tmp_path, b'{"text": "' + b"x" * padding + sequence + b'"}\n{"text": "b"}\n')
    assert_same(
        tmp_path, b'{"text": "c", "x": "' + b"x" * padding + sequence + b'"}\n{"text": "b"}\n'
    )


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.dictionaries(st.sampled_from(["text", "id", "x", "中"]), VALUES), max_size=5),
    st.booleans(),
)
def test_drawn_objects_are_read_alike(tmp_path_factory, rows, is_ascii):
    content = "\n".join(json.dumps(row, ensure_ascii=is_ascii) for row in rows) or "\n"
    assert_same(tmp_path_factory.mktemp("drawn"), content.encode() + b'\n{"text": "end"}')


def test_every_space_of_python_is_one(tmp_path):
    points = [p for p in range(0x3100) if not 0xD800 <= p < 0xE000]
    lines = "".join(json.dumps({"text": chr(p)}, ensure_ascii=p < 32) + "\n" for p in points)
    content = np.frombuffer(lines.encode(), np.uint8)
    kinds, start = [], 0
    while start < len(content):
        parsed = kernels.parse_lines(content[start:], "text", "id")
        kinds += parsed.kinds.tolist()
        start += parsed.num_bytes
    assert [kind == 2 for kind in kinds] == [chr(p).isspace() for p in points]
