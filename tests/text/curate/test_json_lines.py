"""Documents written as JSON lines: what Parquet holds, however the run goes."""

import datetime
import decimal
import json
import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.text.curate import corpora

from treadle import curate
from treadle.core.errors import SettingsError
from treadle.core.table import parts, source

ROWS = corpora.records(20)


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch):
    monkeypatch.setattr(parts, "_GROUP_DOCUMENTS", 5)
    monkeypatch.setattr(parts, "_PART_GROUPS", 3)
    monkeypatch.setattr(source, "_UNIT_BYTES", 2000)


LINES = ("jsonl", "jsonl.zst")


@pytest.mark.parametrize("output_format", LINES)
def test_json_lines_hold_what_parquet_does(tmp_path, output_format):
    rows = [{**row, "big": 10**30 + n, "é": [1.5, None]} for n, row in enumerate(ROWS)]
    data = corpora.write_lines(tmp_path / "a.jsonl", rows)
    table = curate(data, tmp_path / "table", "exact")
    lines = curate(data, tmp_path / "lines", "exact", output_format=output_format, workers=1)
    curate(data, tmp_path / "more", "exact", output_format=output_format, workers=4)
    assert lines.measurement("kept").value == table.measurement("kept").value
    (files, more) = (sorted((tmp_path / out / "data").iterdir()) for out in ("lines", "more"))
    assert [file.read_bytes() for file in files] == [file.read_bytes() for file in more]
    assert all(file.name == f"part-{n:05d}.{output_format}" for n, file in enumerate(files))
    if output_format == "jsonl":
        found = [json.loads(line) for file in files for line in file.read_bytes().splitlines()]
        stay = {row["id"] for row in corpora.kept(tmp_path / "table")}
        assert found == [row for row in rows if row["id"] in stay]
    again = curate(tmp_path / "lines", tmp_path / "again", "exact")
    assert again.measurement("dropped").value == 0
    assert corpora.kept(tmp_path / "again") == corpora.kept(tmp_path / "table")


def test_json_lines_of_columns(tmp_path):
    columns = {
        "doc": ["t"],
        "id": [7],
        "text": ["its own"],
        "meta": ["plain"],
        "day": [datetime.date(2026, 1, 2)],
        "price": [decimal.Decimal("12345678901234567890.10")],
        "raw": [b"a\xff"],
        "score": [float("nan")],
        "tags": [["x"]],
    }
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    curate(
        tmp_path / "a.parquet", tmp_path / "out", "exact", text_column="doc", output_format="jsonl"
    )
    written = (tmp_path / "out" / "data" / "part-00000.jsonl").read_text()
    assert written == (
        '{"id":"7","text":"t","day":"2026-01-02","price":12345678901234567890.10,"raw":"a\\\\xff",'
        '"score":null,"tags":["x"],"meta":"plain"}\n'
    )
    row = {"id": "a", "body": "b", "text": "its own", "n": 1}
    data = corpora.write_lines(tmp_path / "b.jsonl", [row])
    curate(data, tmp_path / "own", "exact", text_column="body", output_format="jsonl")
    written = (tmp_path / "own" / "data" / "part-00000.jsonl").read_text()
    assert json.loads(written) == {"id": "a", "text": "b", "meta.text": "its own", "n": 1}


def test_an_index_of_json_lines_is_refused(tmp_path):
    data = corpora.write_lines(tmp_path / "a.jsonl", ROWS)
    with pytest.raises(SettingsError, match="leave --index or --output-format jsonl out"):
        curate(data, tmp_path / "out", "exact", index=True, output_format="jsonl")


def test_json_lines_go_on_after_a_crash(tmp_path, monkeypatch):
    data = corpora.write_lines(tmp_path / "a.jsonl", ROWS)
    settings = {"output_format": "jsonl.zst", "workers": 1}
    curate(data, tmp_path / "whole", "exact", **settings)
    real = os.replace

    def replace(source, target):
        if "part-00001" in str(target):
            raise RuntimeError("the machine went down")
        real(source, target)

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", replace)
        with pytest.raises(RuntimeError, match="went down"):
            curate(data, tmp_path / "out", "exact", **settings)
    result = curate(data, tmp_path / "out", "exact", **settings)
    assert any("Resumed" in note for note in result.notes)
    whole, found = (sorted((tmp_path / out / "data").iterdir()) for out in ("whole", "out"))
    assert [file.read_bytes() for file in found] == [file.read_bytes() for file in whole]


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        (pa.array([1], pa.timestamp("ns")), "1970-01-01 00:00:00.000000001"),
        (pa.array([1], pa.time64("ns")), "00:00:00.000000001"),
        (pa.array([1], pa.timestamp("us", "Nowhere/Land")), "1970-01-01 00:00:00.000001Z"),
        (pa.array([2**60], pa.timestamp("ms")), str(2**60)),
        (pa.array([2**30], pa.date32()), str(2**30)),
        (pa.array([2**62], pa.duration("ms")), str(2**62)),
    ],
)
def test_times_that_python_does_not_have_are_written(tmp_path, values, wanted):
    file = tmp_path / "a.parquet"
    pq.write_table(pa.table({"id": ["a"], "text": ["t"], "when": values}), file)
    curate(file, tmp_path / "out", "exact", output_format="jsonl")
    (line,) = (tmp_path / "out" / "data" / "part-00000.jsonl").read_text().splitlines()
    assert json.loads(line)["when"] == wanted
