"""Loads and replays against a real server, and their figures against requests made by hand."""

import asyncio
import itertools
import json
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from deploy.serve.servers import loaded, running
from treadle.core.errors import SettingsError
from treadle.core.result import read_result
from treadle.core.trace import Trace
from treadle.judge.bench import bench_load, bench_replay
from treadle.judge.bench.drive import Served
from treadle.judge.bench.prompts import BenchPrompts, Pool
from treadle.judge.bench.served import LatencyObjective, figures, measurements, notes
from treadle.model import tiny
from treadle.runtime.client import Endpoint, RefusedError

OBJECTIVE = LatencyObjective(1.0, 0.1)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    model = tiny.build("llama", tmp_path_factory.mktemp("m"), max_position_embeddings=256)
    with running(loaded(model)) as found:
        yield found


def one(scheduled: float, first: float | None, last: float | None, tokens: int, status: int = 200):
    return Served(scheduled, scheduled, first, last, 10, 4, tokens, status, "" if first else "why")


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


# ---- figures of requests made by hand ----


def test_latencies_count_from_the_scheduled_time():
    late = Served(1.0, 3.0, 3.5, 4.5, 10, 0, 11, 200)
    found = {m.name: m for m in measurements([late], OBJECTIVE, 0)}
    assert found["first_token_p50"].value == 2.5
    assert found["request_p99"].value == 3.5
    assert found["token_p90"].value == pytest.approx(0.1)
    assert any("2.000 s late" in note for note in notes([late], True))


def test_quantiles_against_numpy_and_their_intervals_hold_them():
    draws = np.random.default_rng(0).gamma(2.0, size=200)
    served = [one(float(k), k + d, k + 2 * d, 3) for k, d in enumerate(draws)]
    found = {m.name: m for m in measurements(served, OBJECTIVE, 0)}
    for level in (0.5, 0.9, 0.95, 0.99):
        entry = found[f"first_token_p{round(100 * level)}"]
        assert entry.value == pytest.approx(np.quantile(draws, level))
        assert entry.low <= entry.value <= entry.high
        assert entry.low < entry.high


def test_goodput_counts_both_bounds_and_all_that_was_sent():
    served = [
        one(0.0, 0.5, 1.0, 6),  # good: 0.1 s a token
        one(0.0, 0.5, 1.6, 6),  # further tokens too slow
        one(0.0, 1.5, 1.6, 6),  # first piece too late
        one(0.0, 0.5, 0.5, 1),  # good: no further tokens
        one(0.0, None, None, 0, 429),
        one(0.0, None, None, 0, 0),
    ]
    found = {m.name: m for m in measurements(served, OBJECTIVE, 0)}
    assert found["goodput"].value == pytest.approx(2 / 6)
    assert found["goodput_rate"].value == pytest.approx(2 / 1.6)
    assert [found[name].value for name in ("answered", "refused", "failed")] == [4, 1, 1]
    assert found["answer_rate"].value == pytest.approx(19 / 1.6)
    assert "16 of 40" in found["prompt_rate"].note
    assert any(note.startswith("2 requests had no answer: why") for note in notes(served, True))


def test_a_load_of_which_nothing_is_answered():
    served = [one(0.0, None, None, 0, 503)]
    found = {m.name: m.value for m in measurements(served, OBJECTIVE, 0)}
    assert found["goodput"] == 0.0
    assert "first_token_p50" not in found
    assert figures(served) == []


def test_the_course_of_a_load_counts_what_is_inside():
    served = [one(0.0, 1.0, 10.0, 2), one(5.0, 6.0, 10.0, 2)]
    course = figures(served)[1].series[0]
    inside = dict(zip(course.x, course.y, strict=True))
    assert {inside[time] for time in course.x if 0 < time < 5} == {1}
    assert {inside[time] for time in course.x if 5 < time < 10} == {2}


# ---- prompts ----


@pytest.mark.parametrize("scale", [1.0, 0.1])
def test_prompts_share_what_the_trace_shares(scale):
    trace = Trace(
        np.zeros(3),
        np.array([700, 600, 700]),
        np.ones(3, dtype=np.int64),
        ((0, 1), (0, 2), ()),
    ).shorter(scale)
    prompts = BenchPrompts(trace, Pool(list(range(5000)), 1.0), 0)
    first, second, third = (prompts(place) for place in range(3))
    assert [len(p) for p in (first, second, third)] == trace.prompt_tokens.tolist()
    block = trace.block_tokens
    assert first[:block] == second[:block]
    assert first[block : block + 20] != second[block : block + 20]
    assert first[:20] != third[:20]
    assert prompts(0) == first


def test_words_stand_in_where_no_tokens_are_shown():
    trace = Trace(np.zeros(1), np.array([100]), np.array([1]))
    prompt = BenchPrompts(trace, Pool(["weft", "warp"], 2.0), 0)(0)
    assert len(prompt.split()) == 50


# ---- against a server ----


def test_an_open_loop(server, tmp_path):
    result = bench_load(
        server.url, tmp_path / "out", rate=200.0, num_requests=20, prompt_tokens=12, new_tokens=6,
        spread=0.5,
    )  # fmt: skip
    assert result.measurement("answered").value == 20
    rows = lines(tmp_path / "out/requests.jsonl")
    assert len(rows) == 20
    assert {row["status"] for row in rows} == {200}
    assert all(6 <= row["prompt_tokens"] <= 18 for row in rows)
    assert len({row["prompt_tokens"] for row in rows}) > 3
    assert all(3 <= row["answer_tokens"] <= 9 for row in rows)
    assert all(
        row["scheduled_seconds"]
        <= row["sent_seconds"]
        <= row["first_seconds"]
        <= row["last_seconds"]
        for row in rows
    )
    assert read_result(tmp_path / "out") == result
    assert [figure.kind for figure in result.figures] == ["line", "line", "scatter"]


def test_a_closed_loop_has_so_many_on_their_way(server, tmp_path):
    bench_load(
        server.url, tmp_path, clients=3, num_requests=9, prompt_tokens=8, new_tokens=8,
        num_warm_ups=0,
    )  # fmt: skip
    rows = lines(tmp_path / "requests.jsonl")
    sent = sorted(row["sent_seconds"] for row in rows)
    for time in sent:
        assert sum(row["sent_seconds"] <= time < row["last_seconds"] for row in rows) <= 3


def test_a_replay_finds_shared_prefixes_in_the_cache(server, tmp_path):
    entries = [
        {
            "timestamp": 300 * k,
            "input_length": 150,
            "output_length": 2,
            "hash_ids": [7],
        }
        for k in range(4)
    ]
    trace = tmp_path / "t.jsonl"
    trace.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    result = bench_replay(server.url, trace, tmp_path / "out", speed=3.0, num_requests=3)
    rows = lines(tmp_path / "out/requests.jsonl")
    assert [row["scheduled_seconds"] for row in rows] == pytest.approx([0.0, 0.1, 0.2])
    assert [row["cached_tokens"] > 100 for row in rows] == [False, True, True]
    assert [row["answer_tokens"] for row in rows] == [2, 2, 2]
    assert [entry.name for entry in result.inputs] == ["server", "trace"]
    again = lines(tmp_path / "out/trace.jsonl")
    assert [entry["timestamp"] for entry in again] == [0, 100, 200]
    assert [entry["hash_ids"] for entry in again] == [[7]] * 3


def test_an_earlier_run_with_the_same_seed_is_told(server, tmp_path):
    for place in "ab":
        result = bench_load(
            server.url, tmp_path / place, clients=1, num_requests=3, prompt_tokens=90, seed=5,
            new_tokens=2,
        )  # fmt: skip
    assert any("Give another --seed" in note for note in result.notes)


def test_requests_that_do_not_fit_are_refused_or_shortened(server, tmp_path):
    trace = tmp_path / "t.jsonl"
    trace.write_text('{"timestamp": 0, "input_length": 500, "output_length": 12}\n')
    with pytest.raises(SettingsError, match=r"1 of 1 requests .*512 against 256.*--shorten"):
        bench_replay(server.url, trace, tmp_path / "out")
    result = bench_replay(server.url, trace, tmp_path / "out", shorten=True, num_warm_ups=0)
    assert "1 prompts were cut to fit into the context." in result.notes
    (row,) = lines(tmp_path / "out/requests.jsonl")
    assert row["prompt_tokens"] == 244


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, "either rate"),
        ({"rate": 1.0, "clients": 1}, "either rate"),
        ({"rate": 0.0}, "rate 0.0"),
        ({"rate": 1.0, "num_requests": 0}, "num_requests 0"),
        ({"rate": 1.0, "spread": 2.0}, "spread 2.0"),
        ({"rate": 1.0, "variation": -1.0}, "variation -1.0"),
        ({"rate": 1.0, "model": "absent"}, "no model 'absent'; choose one of"),
    ],
)
def test_bad_settings(server, tmp_path, settings, said):
    with pytest.raises(SettingsError, match=said):
        bench_load(server.url, tmp_path / "out", **settings)
    assert not (tmp_path / "out").exists()


def test_no_server(tmp_path):
    with pytest.raises(SettingsError, match="cannot be reached"):
        bench_load("http://127.0.0.1:9", tmp_path / "out", rate=1.0)
    with pytest.raises(SettingsError, match="such as http"):
        bench_load("localhost:8000", tmp_path / "out", rate=1.0)


def test_a_result_is_not_replaced_unasked(server, tmp_path):
    (tmp_path / "result.json").write_text("mine")
    with pytest.raises(SettingsError, match="--overwrite"):
        bench_load(server.url, tmp_path, rate=1.0)
    assert (tmp_path / "result.json").read_text() == "mine"


# ---- servers that are others ----


@contextmanager
def other(answer: Callable[[str, dict], tuple[int, bytes]]) -> Iterator[str]:
    """Serve what `answer` gives for a path and a body."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._send("{}")

        def do_POST(self) -> None:
            self._send(self.rfile.read(int(self.headers["Content-Length"])))

        def _send(self, body: str | bytes) -> None:
            status, content = answer(self.path, json.loads(body))
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as found:
        thread = threading.Thread(target=found.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{found.server_port}"
        found.shutdown()
        thread.join()


def plain_server(fate: Callable[[], tuple[int, bytes] | None]):
    """Answer as a server without /tokenize does; `fate` may put something in an answer's place."""

    def answer(path: str, body: dict) -> tuple[int, bytes]:
        if path == "/v1/models":
            return 200, b'{"data": [{"id": "m"}]}'
        if path != "/v1/completions":
            return 404, b"no such path"
        counted = {"prompt_tokens": 3 * len(body["prompt"].split()), "completion_tokens": 1}
        chunks = [{"choices": [{"text": "x"}]}, {"choices": [], "usage": counted}]
        events = [f"data: {json.dumps(chunk)}\n\n" for chunk in chunks]
        return fate() or (200, "".join([*events, "data: [DONE]\n\n"]).encode())

    return answer


def test_prompts_are_words_where_a_server_shows_no_tokens(tmp_path):
    with other(plain_server(lambda: None)) as url:
        result = bench_load(url, tmp_path, clients=1, num_requests=2, prompt_tokens=30)
    assert any("3.00 tokens each" in note for note in result.notes)
    (row, _) = lines(tmp_path / "requests.jsonl")
    assert row["prompt_tokens"] == 30


def test_each_fate_of_a_request_is_told_apart(tmp_path):
    fates = itertools.chain(
        [None],  # how many tokens a word has
        [(429, b'{"error": {"message": "full"}}'), (500, b"oh"), (200, b"data: nonsense\n\n")],
        [(200, b'data: {"choices": [{"text": "x"}]}\n\n')],
        [(200, b'data: {"error": {"code": 503}}\n\n')],
        itertools.repeat(None),
    )  # fmt: skip
    with other(plain_server(lambda: next(fates))) as url:
        result = bench_load(url, tmp_path, clients=1, num_requests=7, num_warm_ups=0)
    assert [result.measurement(n).value for n in ("answered", "refused", "failed")] == [2, 2, 3]
    rows = lines(tmp_path / "requests.jsonl")
    assert [row["status"] for row in rows] == [429, 500, 0, 0, 503, 200, 200]
    assert "full (status 429)" in rows[0]["reason"]
    assert "no JSON object" in rows[2]["reason"]
    assert "broke off" in rows[3]["reason"]


def test_a_failing_warm_up_stops_before_the_load(tmp_path):
    fates = itertools.chain([None], itertools.repeat((500, b"oh")))
    with (
        other(plain_server(lambda: next(fates))) as url,
        pytest.raises(SettingsError, match="warm up had no answer"),
    ):
        bench_load(url, tmp_path / "out", rate=1.0)


def test_a_page_is_no_server(tmp_path):
    with (
        other(lambda path, body: (200, b"<html>")) as url,
        pytest.raises(RefusedError, match="no JSON object"),
    ):
        bench_load(url, tmp_path / "out", rate=1.0)


def test_the_client_finds_the_model_its_length_and_tokens(server):
    async def asked():
        async with Endpoint(server.url + "/v1/") as endpoint:
            (model,) = await endpoint.models()
            return model, await endpoint.tokenize(model.name, "warp and weft")

    model, tokens = asyncio.run(asked())
    assert model.max_length == 256
    assert tokens
    assert all(isinstance(token, int) for token in tokens)


def test_ctrl_c_keeps_what_was_measured(tmp_path):
    calls = itertools.count()

    def interrupt() -> None:
        if next(calls) == 4:  # the first one told how many tokens a word has
            os.kill(os.getpid(), signal.SIGINT)

    # Where a shell started the tests in its background, they ignore the signal.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with other(plain_server(interrupt)) as url:
            result = bench_load(url, tmp_path, clients=1, num_requests=1000, num_warm_ups=0)
    finally:
        signal.signal(signal.SIGINT, before)
    answered = result.measurement("answered").value
    assert 3 <= answered < 1000
    assert result.notes[1].startswith(f"Stopped after {answered:.0f} of 1000 requests")
    assert len(lines(tmp_path / "requests.jsonl")) == answered
