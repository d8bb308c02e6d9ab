"""Work before an answer: one client's many and long texts hold up nobody."""

import asyncio
import contextlib
import threading
import time

import httpx
import pytest

from treadle.deploy.http import events
from treadle.deploy.http.errors import ApiError
from treadle.deploy.serve.catalogue import ServedModel
from treadle.deploy.serve.preparing import Preparing
from treadle.runtime import LLM

from .servers import Gated, eventually, loaded, running, taken

LONG = 1 << 20


def test_long_work_holds_up_no_short_one_and_what_nobody_wants_never_begins():
    begun: list[str] = []
    gate = threading.Event()

    def work(name: str, is_waiting: bool = False):
        def run(wanted) -> str:
            begun.append(name)
            assert not is_waiting or gate.wait(60)
            return name

        return run

    async def check() -> None:
        preparing = Preparing()
        first = asyncio.create_task(preparing.run("flood", LONG, work("long", True)))
        others = [
            asyncio.create_task(preparing.run("flood", LONG, work(f"left {n}"))) for n in range(20)
        ]
        other = asyncio.create_task(preparing.run("other", LONG, work("other")))
        while not begun:
            await asyncio.sleep(0.001)
        assert await preparing.run("flood", 5, work("short")) == "short"
        for task in others[:19]:
            task.cancel()
        await asyncio.gather(*others[:19], return_exceptions=True)
        gate.set()
        assert await first == "long"
        assert (await other, await others[19]) == ("other", "left 19")
        assert not preparing._turns
        preparing.close()

    asyncio.run(check())
    # One of the flood's came to its turn while the other client's waited; no client's do at once.
    assert begun == ["long", "short", "other", "left 19"]


def test_work_that_runs_learns_that_nobody_waits_any_more():
    seen: list[bool] = []
    began, ended = threading.Event(), threading.Event()

    def work(wanted) -> None:
        seen.append(bool(wanted))
        began.set()
        while wanted:
            time.sleep(0.001)
        ended.set()

    async def check() -> None:
        preparing = Preparing()
        task = asyncio.create_task(preparing.run("a", 1, work))
        while not began.is_set():
            await asyncio.sleep(0.001)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        preparing.close()

    asyncio.run(check())
    assert ended.wait(60)
    assert seen == [True]


class Counting:
    """A tokenizer that notes how many characters it was given at once."""

    def __init__(self, inner) -> None:
        self._inner, self.lengths = inner, []

    def __getattr__(self, name: str):
        return getattr(self._inner, name)

    def __call__(self, text: str, **settings):
        self.lengths.append(len(text))
        return self._inner(text, **settings)


@pytest.mark.parametrize("text", ["def f(x): return x\n" * 100_000, "x" * 2_000_000])
def test_a_text_far_beyond_the_context_is_refused_after_a_part_of_it(chatty, text):
    model = ServedModel("tiny", LLM(chatty, weights="fp32"))
    model.llm.prompts._reader = counting = Counting(model.llm.prompts.tokenizer)
    with pytest.raises(ApiError, match="This model's maximum context length is 1024 tokens") as f:
        model.tokens(text)
    assert "in its first 8192 characters alone" in f.value.message
    assert counting.lengths == [8192]
    # What just fits, or just does not, is counted whole.
    fitting = "x" * 1023
    assert len(model.tokens(fitting)) == 1023
    with pytest.raises(ApiError, match="the prompt has 1024 tokens"):
        model.tokens(fitting + "x")


def test_prompts_whose_clients_left_hold_up_nobody(chatty):
    body = {"model": "tiny", "prompt": "word " * 400_000, "max_tokens": 1}
    with running(loaded(chatty)) as found:
        for _ in range(20):
            with contextlib.suppress(httpx.TimeoutException):  # some are answered even so
                httpx.post(
                    f"{found.url}/v1/completions", json=body, timeout=httpx.Timeout(60, read=0.001)
                )
        answer = httpx.post(
            f"{found.url}/v1/completions", json={**body, "prompt": "a"}, timeout=120
        )
        assert answer.status_code == 200
        assert httpx.get(f"{found.url}/status").status_code == 200
        assert eventually(lambda: found.serving.num_inside == 0)
        assert not found.serving.preparing._turns


def test_a_long_embedding_lets_others_run_between_its_chunks(chatty):
    with running(loaded(chatty, max_num_batched_tokens=16)) as found:
        llm = next(iter(found.serving.catalogue.llms.values()))
        jobs: list[str] = []
        step, forward = llm.step, llm.executor.hidden
        llm.step = lambda: (jobs.append("step"), step())[1]
        llm.executor.hidden = lambda *given: (jobs.append("chunk"), forward(*given))[1]
        text = "x" * 800
        answers = []

        def embed() -> None:
            asked = {"input": text}
            answers.append(httpx.post(f"{found.url}/v1/embeddings", json=asked, timeout=120))

        threads = [threading.Thread(target=embed) for _ in range(2)]
        for thread in threads:
            thread.start()
        body = {"prompt": "a", "max_tokens": 30, "ignore_eos": True}
        assert httpx.post(f"{found.url}/v1/completions", json=body, timeout=120).status_code == 200
        for thread in threads:
            thread.join(120)
        assert [answer.status_code for answer in answers] == [200, 200]
        assert jobs.count("chunk") == 100
        first, last = jobs.index("chunk"), len(jobs) - jobs[::-1].index("chunk")
        assert "step" in jobs[first:last] or first > jobs.index("step")


def test_a_client_that_leaves_while_its_embedding_begins_leaves_no_pages_behind(chatty):
    began, may_go_on = threading.Event(), threading.Event()
    with running(loaded(chatty)) as found:
        llm = next(iter(found.serving.catalogue.llms.values()))
        embedding = llm.embedding

        def slowly(*given):
            made = embedding(*given)
            began.set()
            assert may_go_on.wait(120)
            return made

        llm.embedding = slowly
        with contextlib.suppress(httpx.TimeoutException):
            limit = httpx.Timeout(60, read=0.2)
            httpx.post(f"{found.url}/v1/embeddings", json={"input": "x" * 50}, timeout=limit)
        assert began.wait(120)
        assert eventually(lambda: found.serving.num_inside == 0)
        assert llm.load_report().num_free_pages < llm.load_report().num_pages
        may_go_on.set()
        assert eventually(lambda: llm.load_report().num_free_pages == llm.load_report().num_pages)


def test_silent_streams_give_signs_of_life(chatty, monkeypatch):
    monkeypatch.setattr(events, "PAUSE_SECONDS", 0.02)
    gate = Gated(chatty)
    asked = {
        "/v1/completions": ({"prompt": "a"}, ": still at work"),
        "/v1/chat/completions": ({"messages": [{"role": "user", "content": "a"}]}, ": still"),
        "/v1/responses": ({"input": "a"}, ": still at work"),
        "/v1/messages": (
            {"messages": [{"role": "user", "content": "a"}], "max_tokens": 2},
            "event: ping",
        ),
    }
    with running(loaded(chatty, executor=gate)) as found:
        for path, (body, sign) in asked.items():
            with httpx.stream(
                "POST", found.url + path, json={**body, "stream": True}, timeout=120
            ) as answer:
                assert any(line.startswith(sign) for line in answer.iter_lines())
            gate.let(1)
            assert eventually(lambda: taken(found) == 0)
        gate.open()
