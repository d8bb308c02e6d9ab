"""Traces: the three formats, what is refused, and the ways to fit one to a machine."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from treadle.core.errors import DataError, SettingsError
from treadle.core.trace import Trace, arrivals, read_trace, write_trace

AZURE = """TIMESTAMP,ContextTokens,GeneratedTokens
2023-11-16 18:17:04.0319600,3180,8
2023-11-16 18:17:03.9799600,4808,10
2023-11-16 18:17:05.9799600,110,27
"""
BURST = """Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type
5,ChatGPT,472,18,490,Conversation log
45.5,ChatGPT,1087,0,1087,Conversation log
118,GPT-4,417,276,693,API log
"""
MOONCAKE = [
    {"timestamp": 0, "input_length": 700, "output_length": 6, "hash_ids": [0, 1]},
    {"timestamp": 3500, "input_length": 513, "output_length": 4, "hash_ids": [0, 2]},
]


def written(path: Path, content: str) -> Path:
    path.write_text(content)
    return path


def mooncake(path: Path) -> Path:
    return written(path, "".join(json.dumps(entry) + "\n" for entry in MOONCAKE))


def small(count: int = 5) -> Trace:
    return Trace(
        np.arange(count) * 2.0,
        np.arange(count, dtype=np.int64) * 300 + 1,
        np.arange(count, dtype=np.int64) + 1,
    )


def test_azures_requests_come_in_order_of_time(tmp_path):
    trace = read_trace(written(tmp_path / "azure.csv", AZURE))
    assert trace.arrival_seconds == pytest.approx([0.0, 0.052, 2.0], abs=1e-6)
    assert trace.prompt_tokens.tolist() == [4808, 3180, 110]
    assert trace.answer_tokens.tolist() == [10, 8, 27]
    assert trace.blocks is None
    assert trace.seconds == pytest.approx(2.0)


def test_burstgpts_failures_are_left_out_and_counted(tmp_path):
    trace = read_trace(written(tmp_path / "burst.csv", BURST))
    assert trace.arrival_seconds.tolist() == [0.0, 113.0]
    assert trace.prompt_tokens.tolist() == [472, 417]
    assert trace.num_failed == 1


def test_mooncakes_blocks(tmp_path):
    trace = read_trace(mooncake(tmp_path / "m.jsonl"))
    assert trace.arrival_seconds.tolist() == [0.0, 3.5]
    assert trace.blocks == ((0, 1), (0, 2))


def test_what_is_written_reads_the_same(tmp_path):
    trace = read_trace(mooncake(tmp_path / "m.jsonl"))
    write_trace(trace, tmp_path / "again.jsonl")
    again = read_trace(tmp_path / "again.jsonl")
    for one, other in zip(trace, again, strict=True):
        np.testing.assert_equal(one, other)
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_a_trace_without_blocks_is_written_with_blocks_of_its_own(tmp_path):
    write_trace(small(), tmp_path / "t.jsonl")
    blocks = read_trace(tmp_path / "t.jsonl").blocks
    assert blocks is not None
    assert [len(found) for found in blocks] == [1, 1, 2, 2, 3]
    assert len({one for found in blocks for one in found}) == 9


def test_scaled_blocks_are_not_written_as_whole_ones(tmp_path):
    trace = read_trace(mooncake(tmp_path / "m.jsonl")).shorter(0.5)
    assert trace.block_tokens == 256
    assert trace.prompt_tokens.tolist() == [350, 256]
    with pytest.raises(SettingsError, match="before its lengths are scaled"):
        write_trace(trace, tmp_path / "again.jsonl")


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.csv", "a,b\n1,2\n", "columns a, b; expected Azure's"),
        ("a.csv", "", "columns none"),
        ("a.csv", AZURE + "yesterday,1,2\n", "line 5"),
        ("a.csv", AZURE + "2023-11-16 18:17:05.9,x,2\n", "line 5"),
        ("a.csv", AZURE + "2023-11-16 18:17:05.9,5\n", "line 5"),
        ("a.csv", AZURE + "2023-11-16 18:17:05.9,-5,2\n", "line 5"),
        ("a.csv", AZURE.splitlines()[0], "no requests"),
        ("m.jsonl", '{"timestamp": 0}\n', "line 1: no 'input_length'"),
        ("m.jsonl", "\nnothing\n", "line 2"),
        ("m.jsonl", "[1]\n", "line 1"),
        ("m.jsonl", '{"timestamp": NaN, "input_length": 1, "output_length": 1}', "line 1"),
        ("m.jsonl", '{"timestamp": 0, "input_length": 1, "output_length": 0}', "No request"),
    ],
)
def test_bad_traces_are_refused_with_their_line(tmp_path, name, content, said):
    with pytest.raises(DataError, match=said):
        read_trace(written(tmp_path / name, content))


def test_no_trace_and_no_text(tmp_path):
    with pytest.raises(DataError, match="No trace at"):
        read_trace(tmp_path / "nowhere.csv")
    (tmp_path / "a.csv").write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(DataError, match="not UTF-8"):
        read_trace(tmp_path / "a.csv")


def test_speed_and_length():
    trace = small().faster(4.0).shorter(0.01)
    assert trace.arrival_seconds.tolist() == [0.0, 0.5, 1.0, 1.5, 2.0]
    assert trace.prompt_tokens.tolist() == [1, 3, 6, 9, 12]
    assert trace.answer_tokens.tolist() == [1] * 5


@given(st.integers(1, 400), st.floats(0.0, 1.0), st.integers(0, 3))
def test_thinning_keeps_about_the_share_and_the_times(count, fraction, seed):
    trace = small(count)
    thin = trace.thinned(fraction, seed)
    assert 1 <= thin.num_requests <= count
    assert abs(thin.num_requests - fraction * count) <= 1 + 5 * np.sqrt(count) / 2
    assert thin.arrival_seconds.tolist() == [
        pytest.approx(2.0 * (a - 1) - 2.0 * (thin.answer_tokens[0] - 1)) for a in thin.answer_tokens
    ]


@pytest.mark.parametrize("variation", [0.0, 0.5, 1.0, 3.0])
def test_drawn_times_have_the_rate_and_the_variation_asked_for(variation):
    times = arrivals(4.0, 40_000, 0, variation)
    gaps = np.diff(times)
    assert times[0] == 0
    assert gaps.mean() == pytest.approx(0.25, rel=0.05)
    assert gaps.std() / gaps.mean() == pytest.approx(variation, abs=0.1)


def test_an_infinite_rate_lets_all_come_at_once():
    assert arrivals(np.inf, 7, 0).tolist() == [0.0] * 7
