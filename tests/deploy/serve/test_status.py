"""What /status says: versions, weights, contexts, and the last minutes second by second."""

import asyncio
import threading
import time
from types import SimpleNamespace

import httpx
import pytest

from runtime.adapters import write_adapter
from treadle.deploy.serve.history import Busy, History
from treadle.runtime.answer.talk import TALK
from treadle.runtime.linear.held import held_bytes, held_forms
from treadle.runtime.llm import LLM

from .servers import Gated, eventually, loaded, running


class World:
    """A clock and a load that a test moves."""

    def __init__(self) -> None:
        self.now, self.load = 1000.0, Busy(0, 0, 0)

    def history(self) -> History:
        return History(lambda: self.load, lambda: self.now)


def test_rates_are_over_the_time_that_passed():
    world = World()
    history = world.history()
    for seconds, load in ((1.0, Busy(50, 2, 0)), (2.0, Busy(150, 2, 3)), (1.0, Busy(150, 0, 0))):
        world.now += seconds
        world.load = load
        history.sample()
    assert history.since(0) == {
        "time": [1001.0, 1003.0, 1004.0],
        "tokens_per_second": [50.0, 50.0, 0.0],
        "running": [2, 2, 0],
        "waiting": [0, 3, 0],
    }
    assert history.since(1003.0)["time"] == [1004.0]


def test_ten_minutes_are_kept_and_a_clock_may_be_set_back():
    world = World()
    history = world.history()
    for _ in range(700):
        world.now += 1
        history.sample()
    assert history.since(0)["time"] == [1000.0 + second for second in range(101, 701)]
    world.now -= 3600
    history.sample()
    world.now += 1
    world.load = Busy(7, 1, 0)
    history.sample()
    assert history.since(-1e9)["tokens_per_second"] == [7.0]


def test_samples_are_taken_a_second_apart(monkeypatch):
    world, waits = World(), []
    history = world.history()

    async def sleep(seconds: float) -> None:
        waits.append(round(seconds, 6))
        if len(waits) > 3:
            raise asyncio.CancelledError
        world.now += seconds + (0.4 if len(waits) == 2 else 0)  # the loop was busy

    # Of this module only: servers of other tests sleep, too.
    monkeypatch.setattr("treadle.deploy.serve.history.asyncio", SimpleNamespace(sleep=sleep))
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(history.keep())
    assert waits == [1.0, 1.0, 0.6, 1.0]
    assert history.since(0)["time"] == [1001.0, 1002.4, 1003.0]


def test_status_tells_of_models_and_needs_no_model_to_be_idle(chatty, tmp_path):
    gate = Gated(chatty)
    gate.open()
    adapter = write_adapter(tmp_path / "adapter", chatty)
    served = loaded(chatty, executor=gate, adapters={"polite": adapter})
    with running(served, keys=["one"]) as found, httpx.Client(base_url=found.url) as web:
        web.headers["x-api-key"] = "one"
        body = {"prompt": "def", "max_tokens": 40, "ignore_eos": True}
        assert web.post("/v1/completions", json=body).status_code == 200
        assert eventually(lambda: sum(web.get("/status").json()["history"]["tokens_per_second"]))
        status = web.get("/status").json()
        assert status["version"] == web.get("/version").json()["version"]
        assert status["has_keys"] is True
        assert 0 < status["uptime_seconds"] < 600
        assert status["talk"] == TALK
        model, beside = status["models"]
        assert model["context_tokens"] == 1024
        assert model["has_chat_template"] is True
        assert model["weights"] == {"form": "fp32", "bytes": gate.weights.num_bytes}
        assert model["weights"]["bytes"] > 10_000
        assert (beside["id"], beside["parent"]) == ("polite", "tiny")
        history = status["history"]
        assert len({len(values) for values in history.values()}) == 1
        last = history["time"][-1]
        newer = web.get("/status", params={"since": last}).json()["history"]["time"]
        assert all(moment > last for moment in newer)
        for wrong in ("soon", ""):
            refused = web.get("/status", params={"since": wrong})
            assert refused.status_code == 400
            assert "expected the time of an earlier answer" in refused.json()["error"]["message"]


def test_the_history_goes_on_while_a_step_takes_long(chatty):
    gate = Gated(chatty)
    with running(loaded(chatty, executor=gate)) as found:
        body = {"prompt": "def", "max_tokens": 3, "ignore_eos": True}
        asked = threading.Thread(
            target=httpx.post,
            args=(f"{found.url}/v1/completions",),
            kwargs={"json": body, "timeout": 120},
        )
        asked.start()
        (app,) = [found.server.config.app]
        history = app.state.history
        begun = time.time()
        assert eventually(
            lambda: any(history.since(begun)["waiting"] + history.since(begun)["running"])
        )
        gate.open()
        asked.join(60)


def test_bytes_of_weights_whatever_holds_them(chatty, llm):
    from treadle.runtime.choice import generic_executor

    generic = generic_executor(chatty, "cpu", False)
    assert held_forms(generic) == "fp32"
    # Where the head is the embedding, both count it once.
    assert held_bytes(generic) == pytest.approx(held_bytes(llm.executor), rel=0.3)
    assert held_bytes(LLM(chatty, weights="q8").executor) < held_bytes(llm.executor)
    assert held_bytes(object()) == 0
