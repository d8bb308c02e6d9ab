"""Archives of the web: pages become their main text, and nothing is lost in silence."""

import gzip
import json

import pytest
import zstandard

from treadle.core.errors import DataError
from treadle.core.table import batches_of, open_source

pytest.importorskip("fastwarc")

STORY = "The committee met on Tuesday to discuss the plan that had been proposed in March. " * 4
PAGE = (
    "<!doctype html><html><head><title>T</title><script>var a = 1</script></head><body><nav><ul>"
    "<li><a href='/'>Home</a></li></ul></nav><main><article><h1>The plan</h1><p>" + STORY + "</p>"
    "<p>Zürich &amp; Genève asked for more.</p></article></main><footer>Privacy policy</footer>"
    "</body></html>"
)


def record(number, body, kind="response", status="200 OK", content_type="text/html; charset=utf-8"):
    head = f"HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\n\r\n"
    content = head.encode() + body if kind in ("response", "request") else body
    mime = "application/http" if kind in ("response", "request") else "text/plain"
    named = (
        f"WARC/1.0\r\nWARC-Type: {kind}\r\nWARC-Target-URI: http://site/{number}\r\n"
        f"WARC-Date: 2026-01-02T03:04:05Z\r\nWARC-Record-ID: <urn:uuid:{number}>\r\n"
        f"Content-Type: {mime}\r\nContent-Length: {len(content)}\r\n\r\n"
    )
    return named.encode() + content + b"\r\n\r\n"


RECORDS = [
    record(0, b"software: x", "warcinfo"),
    record(1, PAGE.encode()),
    record(2, b"", "request"),
    record(3, b"gone", status="404 Not Found"),
    record(4, b"\x89PNG", content_type="image/png"),
    record(5, PAGE.encode("latin-1"), content_type="text/html; charset=ISO-8859-1"),
    record(6, b"<html><body><nav>Home</nav></body></html>"),
    record(8, PAGE.encode(), content_type="text/html; charset=utf8mb4"),
    record(7, "Extracted before, 中文\x00.".encode(), "conversion"),
]


def read(file):
    opened = open_source(file)
    found = [batch for unit in opened.units for batch in batches_of(opened, unit)]
    rows = [row for batch in found for row in batch.table.to_pylist()]
    return rows, [tuple(reject) for batch in found for reject in batch.rejects]


@pytest.mark.parametrize("suffix", [".warc", ".warc.gz"])
def test_pages_become_their_main_text(tmp_path, suffix):
    pack = gzip.compress if suffix.endswith("gz") else bytes
    file = tmp_path / f"crawl{suffix}"
    file.write_bytes(b"".join(map(pack, RECORDS)))
    rows, rejects = read(file)
    assert [row["id"] for row in rows] == [f"urn:uuid:{n}" for n in (1, 5, 8, 7)]
    for row in rows[:3]:
        assert STORY.strip() in row["text"]
        assert "Zürich & Genève asked for more." in row["text"]
        assert not any(word in row["text"] for word in ("Home", "var a", "Privacy"))
    assert rows[3]["text"] == "Extracted before, 中文."
    assert json.loads(rows[0]["meta"]) == {"url": "http://site/1", "date": "2026-01-02T03:04:05Z"}
    assert [(row, reason) for _, row, reason in rejects] == [
        (1, "no page: its status is not 200"),
        (2, "no page: it is not HTML"),
        (4, "empty"),
    ]


@pytest.mark.parametrize("harm", ["cut", "cut text", "changed", "junk"])
def test_a_damaged_archive_is_refused(tmp_path, harm):
    packed = b"".join(map(gzip.compress, RECORDS))
    harmed = {
        "cut": packed[:-20],
        "cut text": b"".join(RECORDS)[:-15],
        "changed": packed[: len(packed) // 2] + b"xx" + packed[len(packed) // 2 + 2 :],
        "junk": b"hello world\n" * 100,
    }[harm]
    file = tmp_path / ("crawl.warc" if harm == "cut text" else "crawl.warc.gz")
    file.write_bytes(harmed)
    with pytest.raises(DataError, match=r"crawl.warc.* is damaged: .*Fetch the file again"):
        read(file)


def test_an_archive_is_curated(tmp_path):
    from tests.text.curate import corpora

    from treadle import curate

    (tmp_path / "crawl.warc.gz").write_bytes(b"".join(map(gzip.compress, RECORDS)))
    result = curate(tmp_path / "crawl.warc.gz", tmp_path / "out", "exact")
    assert result.measurement("rejected").value == 3
    kept = [row["id"] for row in corpora.kept(tmp_path / "out")]
    assert len(kept) == 2  # the three pages say the same


@pytest.mark.parametrize("window", [20, 28, 30])
def test_any_window_of_zstd_is_read(tmp_path, window):
    parameters = zstandard.ZstdCompressionParameters(window_log=window)
    compressor = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    packed = compressor.compress(b"".join(RECORDS)) + compressor.flush()
    file = tmp_path / "crawl.warc.zst"
    file.write_bytes(packed)
    rows, rejects = read(file)
    assert (len(rows), len(rejects)) == (4, 3)
    file.write_bytes(packed[:-30])
    with pytest.raises(DataError, match=r"crawl.warc.zst' is damaged: .*frame"):
        read(file)


def test_a_record_without_an_id_or_of_no_known_kind_ends_nothing(tmp_path):
    named = RECORDS[1].replace(b"WARC-Record-ID: <urn:uuid:1>\r\n", b"")
    unknown = RECORDS[-1].replace(b"Type: conversion", b"Type: konversion")
    (tmp_path / "crawl.warc").write_bytes(named + unknown)
    rows, rejects = read(tmp_path / "crawl.warc")
    assert [row["id"][:5] for row in rows] == ["xxh3:"]
    assert [(row, reason) for _, row, reason in rejects] == [(1, "a record of no known kind")]
