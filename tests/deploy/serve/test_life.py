"""Clients that leave, servers that end, keys, limits, and who comes first."""

import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest

from treadle.cli import main
from treadle.core.errors import SettingsError
from treadle.deploy.http.limits import ServerLimits
from treadle.deploy.http.server import listen
from treadle.deploy.serve.apply import serve

from .servers import Gated, Running, eventually, loaded, running, taken

BODY = {"prompt": "def", "max_tokens": 900, "ignore_eos": True, "temperature": 0}
EVERYTHING = 10_000
JSON = {"Content-Type": "application/json"}


def post(url: str, path: str = "/v1/completions", **body) -> httpx.Response:
    return httpx.post(url + path, json={**BODY, **body}, timeout=240)


def begin(url: str, **body) -> http.client.HTTPResponse:
    """Send a request for a stream and return once its first piece has come."""
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=120)
    content = json.dumps({**BODY, "stream": True, **body})
    connection.request("POST", "/v1/completions", content, JSON)
    answer = connection.getresponse()
    assert answer.status == 200
    assert answer.readline().startswith(b"data: ")
    answer.connection = connection
    return answer


def held(found: Running) -> int:
    (llm,) = found.serving.catalogue.llms.values()
    report = llm.load_report()
    return report.num_pages - report.num_free_pages - report.num_cached_pages


@pytest.mark.parametrize("is_streamed", [True, False])
def test_a_client_that_leaves_frees_its_pages(chatty, is_streamed):
    gate = Gated(chatty)
    with running(loaded(chatty, executor=gate)) as found:
        gate.let(3)
        if is_streamed:
            answer = begin(found.url)
            answer.connection.sock.close()
            answer.close()
        else:
            sent = socket.create_connection(("127.0.0.1", int(found.url.rpartition(":")[2])))
            body = json.dumps(BODY).encode()
            head = (
                "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\n"
                f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
            )
            sent.sendall(head.encode() + body)
            assert eventually(lambda: any(answers.parts for answers in found.serving.open))
            sent.close()
        gate.let(1)
        assert eventually(lambda: found.serving.num_generating == 0 and not found.serving.open)
        gate.open()
        assert eventually(lambda: held(found) == 0)
        assert found.serving.metrics.recent[0]["new_tokens"] < 10
        assert post(found.url, max_tokens=2).status_code == 200


def test_many_that_leave_at_once(chatty):
    with running(loaded(chatty)) as found:
        with ThreadPoolExecutor(20) as threads:
            for answer in threads.map(lambda _: begin(found.url), range(100)):
                answer.connection.sock.close()
                answer.close()
        assert eventually(lambda: held(found) == 0 and found.serving.num_generating == 0)
        assert eventually(lambda: found.serving.num_inside == 0)


def ask_many(count: int, ask: Callable[[], httpx.Response]) -> list["Future[httpx.Response]"]:
    threads = ThreadPoolExecutor(count)
    found = [threads.submit(ask) for _ in range(count)]
    threads.shutdown(wait=False)
    return found


def test_drain_loses_nothing(chatty):
    gate = Gated(chatty)
    with running(loaded(chatty, executor=gate, max_num_seqs=2)) as found:
        asked = ask_many(5, lambda: post(found.url, max_tokens=20))
        assert eventually(lambda: taken(found) == 5)
        found.server.drain()
        refused = post(found.url, max_tokens=1)
        assert refused.status_code == 503
        assert refused.json()["error"]["code"] == "draining"
        assert "Retry-After" in refused.headers
        assert httpx.get(f"{found.url}/health").status_code == 503
        gate.open()
        for answer in asked:
            assert answer.result(30).json()["usage"]["completion_tokens"] == 20
        found.thread.join(20)
        assert not found.thread.is_alive()


def test_drain_gives_up_in_time_and_says_so(chatty, caplog):
    gate = Gated(chatty)
    limits = ServerLimits(drain_seconds=0.2)
    with running(loaded(chatty, executor=gate), limits) as found:
        gate.let(2)
        answer = begin(found.url)
        (whole,) = ask_many(1, lambda: post(found.url))
        assert eventually(lambda: taken(found) == 2)
        found.server.drain()
        events = answer.read().decode().strip().split("\n\n")
        assert json.loads(events[-1].removeprefix("data: "))["error"]["code"] == "shut_down"
        assert whole.result(30).status_code == 503
        gate.open()
        found.thread.join(20)
        assert not found.thread.is_alive()
        answer.connection.close()
        answer.close()
    assert "Traceback" not in caplog.text


def test_the_command_serves_drains_on_sigterm_and_ends_with_zero(chatty):
    command = [sys.executable, "-m", "treadle", "serve", f"tiny={chatty}", "--port", "0"]
    environment = {**os.environ, "TREADLE_API_KEY": "secret"}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
    try:
        assert process.stderr is not None
        line = process.stderr.readline()
        while "Serving" not in line:
            assert line, "the server ended"
            line = process.stderr.readline()
        assert "Serving tiny at http://127.0.0.1:" in line
        url = line.split()[-1]
        assert eventually(lambda: is_up(url))
        assert post(url).status_code == 401
        key = {"Authorization": "Bearer secret"}
        with httpx.stream(
            "POST", f"{url}/v1/completions", json={**BODY, "stream": True}, headers=key, timeout=240
        ) as answer:
            lines = answer.iter_lines()
            assert next(lines).startswith("data: ")
            process.send_signal(signal.SIGTERM)
            rest = [line for line in lines if line]
        assert rest[-1] == "data: [DONE]"
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


def is_up(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health").status_code == 200
    except httpx.TransportError:
        return False


def test_keys(chatty):
    with running(loaded(chatty), keys=["one", "two"]) as found:
        for headers in ({}, {"Authorization": "Bearer three"}, {"Authorization": "Basic one"}):
            refused = httpx.get(f"{found.url}/v1/models", headers=headers)
            assert refused.status_code == 401
            assert refused.json()["error"]["code"] == "invalid_api_key"
            assert refused.headers["WWW-Authenticate"] == "Bearer"
        for key in ("one", "two"):
            answer = httpx.get(f"{found.url}/v1/models", headers={"Authorization": f"bearer {key}"})
            assert answer.status_code == 200
        for path in ("/health", "/metrics", "/", "/openapi.json"):
            assert httpx.get(found.url + path).status_code == 200
        assert httpx.get(found.url + "/status").status_code == 401
        odd = httpx.get(f"{found.url}/v1/models", headers={"Authorization": b"Bearer \xff"})
        assert odd.status_code == 401


def test_a_body_over_the_limit(chatty):
    with running(loaded(chatty), ServerLimits(max_body_bytes=1000)) as found:
        sized = post(found.url, prompt="x" * 1000)
        assert sized.status_code == 413
        assert sized.json()["error"]["code"] == "body_too_large"
        pieces = iter([b'{"prompt": "', b"x" * 1000, b'"}'])
        long = httpx.post(f"{found.url}/v1/completions", content=pieces, headers=JSON)
        assert long.status_code == 413
        # The answer reaches the client a moment before its request is counted out.
        until = time.monotonic() + 120
        while found.serving.num_inside and time.monotonic() < until:
            time.sleep(0.01)
        assert found.serving.num_inside == 0


HALF = (
    b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    b"Content-Length: 9\r\n\r\n{"
)


def send_half(url: str) -> socket.socket:
    sent = socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])))
    sent.sendall(HALF)
    return sent


def test_a_body_that_does_not_come(chatty):
    limits = ServerLimits(body_seconds=0.1)
    with running(loaded(chatty), limits) as found, send_half(found.url) as sent:
        assert sent.recv(100).startswith(b"HTTP/1.1 408")


def test_half_a_body_holds_up_no_drain_and_a_client_that_leaves_in_it_is_no_fault(chatty, caplog):
    with running(loaded(chatty)) as found:
        with send_half(found.url):
            assert eventually(lambda: found.serving.num_inside == 1)
        assert eventually(lambda: found.serving.num_inside == 0)
        with send_half(found.url) as sent:
            assert eventually(lambda: found.serving.num_inside == 1)
            found.server.drain()
            assert sent.recv(100).startswith(b"HTTP/1.1 503")
        found.thread.join(20)
        assert not found.thread.is_alive()
    assert "Traceback" not in caplog.text


def test_a_full_queue_and_an_answer_that_takes_too_long(chatty):
    gate = Gated(chatty)
    limits = ServerLimits(max_requests=2, timeout_seconds=0.3)
    with running(loaded(chatty, executor=gate), limits) as found:
        # Of one request: of two, the second might come to the engine after the gate opens.
        first = ask_many(1, lambda: post(found.url, n=2, temperature=1))
        assert eventually(lambda: taken(found) == 2)
        refused = post(found.url, n=3, temperature=1)
        assert refused.json()["error"]["code"] == "too_many_answers"
        refused = post(found.url)
        assert refused.status_code == 429
        assert refused.headers["Retry-After"] == "1"
        assert post(found.url, path="/v1/embeddings").status_code == 400
        threading.Event().wait(0.3)
        gate.open()
        for answer in first:
            assert answer.result(30).status_code == 504
            assert answer.result().json()["error"]["code"] == "timeout"
        assert eventually(lambda: held(found) == 0)
        text = httpx.get(f"{found.url}/metrics").text
        assert 'treadle:requests_refused_total{status="429"} 1.0' in text
        assert (
            'vllm:request_success_total{finished_reason="deadline",model_name="tiny"} 2.0' in text
        )


def test_the_lower_priority_number_and_the_client_served_least_come_first(chatty):
    gate = Gated(chatty)
    with running(loaded(chatty, executor=gate, max_num_seqs=1)) as found:
        ended: list[str] = []

        def ask(name: str, **more: object) -> None:
            post(found.url, max_tokens=48, prompt=f"def {name}", **more)
            ended.append(name)

        threads = []
        for number, (name, more) in enumerate(
            [
                ("flood 1", {"user": "flood"}),
                ("flood 2", {"user": "flood"}),
                ("flood 3", {"user": "flood"}),
                ("other", {"user": "other"}),
                ("urgent", {"user": "flood", "priority": -1}),
            ],
            1,
        ):
            threads.append(threading.Thread(target=ask, args=(name,), kwargs=more))
            threads[-1].start()
            assert eventually(lambda n=number: taken(found) == n)
        gate.open()
        for thread in threads:
            thread.join(30)
    assert ended[0] == "urgent"
    assert ended.index("other") < ended.index("flood 2")
    assert sorted(ended) == ["flood 1", "flood 2", "flood 3", "other", "urgent"]


def test_a_model_that_fails_answers_500_and_the_next_request_is_answered(chatty, caplog):
    gate = Gated(chatty)
    gate.open()
    with running(loaded(chatty, executor=gate)) as found:
        inner, gate._inner = gate._inner, None
        gate.shape = inner.shape
        failed = post(found.url)
        gate._inner = inner
        assert failed.status_code == 500
        assert failed.json()["error"]["code"] == "engine_error"
        assert "A step failed" in caplog.text
        assert post(found.url, max_tokens=2).status_code == 200


class Overflowing(Gated):
    """An executor whose logits are no numbers, as where the cache's halves overflow."""

    def forward(self, rows, pool):
        return super().forward(rows, pool) * np.float32("nan")


@pytest.mark.parametrize("is_streamed", [True, False])
@pytest.mark.parametrize("path", ["completions", "chat/completions", "messages", "responses"])
def test_logits_that_are_no_numbers_are_the_servers_fault(path, is_streamed, chatty):
    executor = Overflowing(chatty)
    executor.open()
    asked = {"messages": [{"role": "user", "content": "x"}], "max_tokens": 4}
    bodies = {"completions": {"prompt": "x"}, "responses": {"input": "x"}}
    body = {**bodies.get(path, asked), "stream": is_streamed}
    with running(loaded(chatty, executor=executor)) as found:
        answer = httpx.post(f"{found.url}/v1/{path}", json={"model": "tiny", **body}, timeout=240)
    assert "--kv-dtype fp32" in answer.text
    assert "invalid" not in answer.text
    kind = "api_error" if path == "messages" else "server_error"
    if not is_streamed:
        assert answer.status_code == 500
        assert answer.json()["error"]["type"] == kind
    elif path != "responses":
        (line,) = [one for one in answer.text.splitlines() if "--kv-dtype" in one]
        assert json.loads(line.removeprefix("data: "))["error"]["type"] == kind
    else:
        assert '"code": "engine_error"' in answer.text


def test_a_folder_that_goes_is_the_servers_fault_and_prompts_are_answered(chatty, tmp_path):
    folder = shutil.copytree(chatty, tmp_path / "copy")
    loaded(folder)
    with running(loaded(folder)) as found:
        shutil.rmtree(folder)
        assert post(found.url, max_tokens=2).status_code == 200
        form = {"choice": ["yes", "no"]}
        failed = post(found.url, ignore_eos=False, structured_outputs=form)
    assert failed.status_code == 500, failed.text
    assert "which the model was loaded from, is gone" in failed.json()["error"]["message"]


def test_pieces_are_sent_at_once(chatty):
    with running(loaded(chatty)) as found, httpx.Client(base_url=found.url) as client:
        client.get("/health")
        taken = []
        for _ in range(20):
            began = time.perf_counter()
            client.get("/health")
            taken.append(time.perf_counter() - began)
        # All of them take 40 ms where TCP waits for more; a busy machine slows some.
        assert min(taken) < 0.03


def test_a_port_in_use_and_names_that_stand_twice(chatty, capsys):
    with listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        assert main(["serve", str(chatty), "--port", str(port)]) == 2
    assert f"Cannot listen on 127.0.0.1:{port}" in capsys.readouterr().err
    with pytest.raises(SettingsError, match="called 'a'"):
        serve([f"a={chatty}", f"a={chatty}"], port=0)
    with pytest.raises(SettingsError, match="MODEL/NAME"):
        serve([f"a={chatty}", "b=other"], port=0, adapter=("x=y",))
    with pytest.raises(SettingsError, match="adapter name 'a' is empty or in use"):
        serve([f"a={chatty}"], port=0, adapter=("a=y",))
    with pytest.raises(SettingsError, match="no header can carry"):
        serve([f"a={chatty}"], port=0, api_key=("a b",))
    with pytest.raises(SettingsError, match="No tool parser 'hermis'"):
        serve([f"a={chatty}"], port=0, tool_parser="hermis")
    with pytest.raises(SettingsError, match="max_requests=0"):
        serve([f"a={chatty}"], port=0, max_requests=0)


def test_a_recipe_cannot_serve(tmp_path: Path):
    from treadle.recipe import load_recipe

    (tmp_path / "r.yaml").write_text("steps:\n  - serve: {models: [m]}\n")
    with pytest.raises(SettingsError, match="makes no artefact"):
        load_recipe(tmp_path / "r.yaml")
