"""Cascades behind the server: the small model's answer is shown if it is sure, else the next's."""

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import openai
import pytest

from treadle.deploy.http.limits import ServerLimits
from treadle.deploy.serve.catalogue import ServedModel, ServedRouter
from treadle.deploy.serve.opening import open_all
from treadle.deploy.serve.settings import ServeEngineSettings
from treadle.model import tiny
from treadle.runtime import LLM, SamplingParams
from treadle.runtime.answer.sureness import sureness
from treadle.runtime.routed.queries.folder import save_router
from treadle.runtime.routed.queries.query import QueryRouter
from treadle.runtime.routed.queries.record import RouterRecord
from treadle.runtime.routed.queries.scorers import CascadeScores

from .servers import Gated, Running, add_template, eventually, loaded, running, taken

ASKED = {"max_tokens": 5, "temperature": 0}
TALK = {"messages": [{"role": "user", "content": "def"}]}


class First:
    """Stands in where a cascade needs nobody to choose."""

    def choose(self, texts: Sequence[str]) -> list[int]:
        return [0] * len(texts)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[ServedModel]:
    folder = tmp_path_factory.mktemp("models")
    sizes = {"small": 512, "large": 1024}
    return [
        ServedModel(
            name,
            LLM(
                add_template(
                    tiny.build("llama", folder / name, seed, max_position_embeddings=size)
                ),
                weights="fp32",
                policy="fair_priority",
            ),
        )
        for seed, (name, size) in enumerate(sizes.items())
    ]


@pytest.fixture(scope="module")
def server(models) -> Iterator[Running]:
    routers = [
        ServedRouter(name, name, First(), models, [threshold])
        for name, threshold in (("sure", 0.0), ("unsure", 2.0))
    ]
    with running(models, ServerLimits(max_requests=4), routers=routers) as found:
        yield found


@pytest.fixture(scope="module")
def http(server: Running) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=60) as found:
        yield found


BODIES = {
    "/v1/completions": {"prompt": "def", **ASKED},
    "/v1/chat/completions": {**TALK, **ASKED},
    "/v1/messages": {**TALK, **ASKED},
    "/v1/responses": {"input": "def", "max_output_tokens": 5, "temperature": 0},
}


def said(reply: dict) -> object:
    """Return the texts of a reply, and what the client asked to know of them."""
    if "output" in reply:
        return [part for item in reply["output"] for part in item["content"]]
    return reply.get("choices") or reply["content"]


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize(("router", "name"), [("sure", "small"), ("unsure", "large")])
def test_the_answer_is_the_models_own(http, path, router, name):
    body = BODIES[path]
    expected = http.post(path, json={**body, "model": name}).json()
    found = http.post(path, json={**body, "model": router})
    assert found.status_code == 200, found.text
    assert said(found.json()) == said(expected)
    assert found.json()["model"] == name
    assert found.headers["x-treadle-routed"] == router
    told = found.headers["x-treadle-asked"]
    first, *rest = told.split(", ")
    assert first.startswith('"small";confidence=0.')
    assert first.endswith("completion_tokens=5")
    assert rest == (['"large"'] if name == "large" else [])


def test_how_sure_it_was_is_the_mean_probability_of_its_tokens(http, models):
    params = SamplingParams(max_tokens=5, temperature=0, logprobs=0)
    (output,) = models[0].llm.generate("def", params)
    (answer,) = output.outputs
    pairs = zip(answer.token_ids, answer.logprobs, strict=True)
    expected = sureness([entry[token] for token, entry in pairs])
    found = http.post("/v1/completions", json={**BODIES["/v1/completions"], "model": "sure"})
    told = found.headers["x-treadle-asked"].split(";")[1]
    assert float(told.removeprefix("confidence=")) == pytest.approx(expected, abs=1e-4)
    assert sureness([]) == 0.0
    naive = sum(np.exp(entry[t]) for t, entry in zip(answer.token_ids, answer.logprobs)) / 5  # noqa: B905
    assert expected == pytest.approx(naive)


def test_likelihoods_are_shown_to_who_asks_for_them(http):
    body = {**BODIES["/v1/completions"], "logprobs": 2}
    replies = [http.post("/v1/completions", json={**body, "model": m}) for m in ("small", "sure")]
    assert replies[0].json()["choices"] == replies[1].json()["choices"]
    assert replies[1].json()["choices"][0]["logprobs"]["token_logprobs"]
    body = {**BODIES["/v1/chat/completions"], "logprobs": True, "top_logprobs": 1}
    path = "/v1/chat/completions"
    replies = [http.post(path, json={**body, "model": m}) for m in ("small", "sure")]
    assert replies[0].json()["choices"] == replies[1].json()["choices"]


@pytest.mark.parametrize(("router", "name"), [("sure", "small"), ("unsure", "large")])
def test_a_stream_begins_when_somebody_is_sure(server, router, name):
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="any", max_retries=0) as client:
        whole = client.chat.completions.create(model=name, **TALK, **ASKED)
        chunks = list(client.chat.completions.create(model=router, **TALK, **ASKED, stream=True))
    assert {chunk.model for chunk in chunks} == {name}
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text == whole.choices[0].message.content
    assert chunks[-1].choices[0].finish_reason == whole.choices[0].finish_reason


def test_several_answers_are_sure_in_the_mean(http):
    body = {"prompt": ["a", "b"], "n": 2, "max_tokens": 3, "temperature": 1, "seed": 1}
    found = http.post("/v1/completions", json={**body, "model": "sure"})
    assert len(found.json()["choices"]) == 4
    assert found.headers["x-treadle-asked"].endswith("completion_tokens=12")


def test_a_prompt_that_is_too_long_for_the_small_one_goes_on(http):
    body = {"prompt": "x" * 700, "max_tokens": 2, "model": "sure"}
    found = http.post("/v1/completions", json=body)
    assert found.status_code == 200, found.text
    assert found.json()["model"] == "large"
    body["prompt"] = "x" * 3000
    found = http.post("/v1/completions", json=body)
    assert found.json()["error"]["code"] == "context_length_exceeded"


def test_counts_and_room(http, server):
    def counted(name: str, labels: str) -> float:
        lines = http.get("/metrics").text.splitlines()
        return sum(float(x.split()[-1]) for x in lines if x.startswith(f"{name}{{{labels}}}"))

    handed = 'model_name="small",router="unsure"'
    shown = 'model_name="large",router="unsure"'
    tokens = 'model_name="small"'
    names = ("treadle:requests_handed_on_total", "treadle:requests_routed_total")
    before = counted(names[0], handed), counted(names[1], shown)
    written = counted("vllm:generation_tokens_total", tokens)
    http.post("/v1/completions", json={**BODIES["/v1/completions"], "model": "unsure"})
    assert (counted(names[0], handed), counted(names[1], shown)) == (before[0] + 1, before[1] + 1)
    assert counted("vllm:generation_tokens_total", tokens) == written + 5
    too_many = {"prompt": "a", "n": 5, "model": "unsure", "temperature": 1}
    assert http.post("/v1/completions", json=too_many).status_code == 400
    assert server.serving.num_generating == 0
    assert not server.serving.open


def test_a_cascades_folder_is_served(models, tmp_path: Path):
    head = {"method": "cascade", "settings": {}, "features": {"kind": "ngrams"}}
    head |= {"scorer": {"kind": "cascade"}, "trained_on": {"questions": 1, "hash": "x"}}
    names = ["large", "other", "small"]
    record = RouterRecord.model_validate({**head, "models": names, "best_single": "large"})
    scorer = CascadeScores(np.float32([1, -1, 0]), np.float32([0, 0, 0.25]))
    save_router(QueryRouter(record, scorer, None), tmp_path / "router")
    folders = [f"{m.name}={m.llm.prompts.tokenizer.name_or_path}" for m in models]
    settings = ServeEngineSettings(weights="fp32")
    opened = open_all(folders, (), settings, [str(tmp_path / "router")])
    (router,) = opened.routers
    assert [model.name for model in router.models] == ["small", "large"]
    assert router.thresholds == (0.25,)
    never = CascadeScores(np.float32([1, -1, 0]), np.float32([0, 0, 2]))
    save_router(QueryRouter(record, never, None), tmp_path / "never")
    large = [one for one in folders if one.startswith("large=")]
    opened = open_all(large, (), settings, [str(tmp_path / "never")])
    (router,) = opened.routers
    assert [model.name for model in router.answering(["def", "ghi"])] == ["large", "large"]
    assert router.thresholds == ()


@pytest.fixture
def waiting(models, chatty) -> Iterator[tuple[Running, Gated]]:
    """A cascade whose first model makes no step until it is let."""
    gate = Gated(chatty)
    slow = loaded(chatty, "slow", executor=gate)
    router = ServedRouter("auto", "auto", First(), [slow[0], models[1]], [2.0])
    with running([*slow, models[1]], ServerLimits(max_requests=1), routers=[router]) as found:
        yield found, gate
        gate.open()


def start(url: str) -> "Future[httpx.Response]":
    """Ask in a thread of its own."""
    body = {"model": "auto", "prompt": "def", **ASKED}
    pool = ThreadPoolExecutor(1)
    future = pool.submit(httpx.post, f"{url}/v1/completions", json=body, timeout=60)
    pool.shutdown(wait=False)
    return future


def test_an_answer_that_is_held_back_is_drained_and_ended(waiting):
    found, gate = waiting
    serving = found.serving
    answer = start(found.url)
    assert eventually(lambda: taken(found) == 1)
    refused = httpx.post(f"{found.url}/v1/completions", json={"prompt": "a", "max_tokens": 1})
    assert refused.status_code == 429  # before the router was asked
    assert not serving.metrics.routed.of("auto")["requests"]
    found.server.drain()
    gate.let(1)
    serving.abort()
    gate.open()
    assert answer.result(30).status_code == 503
    assert answer.result().json()["error"]["code"] == "shut_down"
    assert eventually(lambda: not serving.open and serving.num_generating == 0)


def test_whoever_leaves_meanwhile_asks_nobody_else(waiting):
    found, gate = waiting
    body = {"model": "auto", "prompt": "def", **ASKED}
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{found.url}/v1/completions", json=body, timeout=0.2)
    gate.open()
    assert eventually(lambda: not found.serving.open and found.serving.num_inside == 0)
    assert not found.serving.metrics.routed.of("auto")["requests"]
