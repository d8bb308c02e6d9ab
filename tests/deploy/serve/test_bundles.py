"""Bundles behind the server: every endpoint answers as the model that the router chooses."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import pytest

from runtime.adapters import write_adapter
from treadle.core.errors import CheckpointError, SettingsError
from treadle.deploy.serve.opening import open_all
from treadle.deploy.serve.settings import ServeEngineSettings
from treadle.runtime import LLM

from .bundles import NAMES, SUMS, WORDS, bundle
from .servers import Running, running

FP32 = ServeEngineSettings(weights="fp32")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bundle(tmp_path_factory.mktemp("both"))


@pytest.fixture(scope="module")
def routed(folder: Path) -> Iterator[Running]:
    opened = open_all([f"both={folder}"], (), FP32)
    with running(opened.models, routers=opened.routers) as found:
        yield found


@pytest.fixture(scope="module")
def http(routed: Running) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=routed.url, timeout=120) as found:
        yield found


def chat(text: str) -> dict:
    return {"messages": [{"role": "user", "content": text}]}


BODIES = {
    "/v1/completions": (lambda text: {"prompt": text, "max_tokens": 4, "temperature": 0}),
    "/v1/chat/completions": (lambda text: {**chat(text), "max_tokens": 4, "temperature": 0}),
    "/v1/responses": (lambda text: {"input": text, "max_output_tokens": 4, "temperature": 0}),
    "/v1/messages": (lambda text: {**chat(text), "max_tokens": 4, "temperature": 0}),
    "/v1/messages/count_tokens": chat,
    "/tokenize": (lambda text: {"prompt": text}),
}


def varying(reply: dict) -> dict:
    """Return what does not differ from call to call, and not by who chose the model."""
    kept = ("choices", "content", "usage", "tokens", "count", "input_tokens", "model")
    found = {name: reply[name] for name in kept if name in reply}
    if "output" in reply:
        found["output"] = [part["text"] for item in reply["output"] for part in item["content"]]
    found.get("usage", {}).pop("prompt_tokens_details", None)
    for name in ("input_tokens_details", "cache_read_input_tokens"):
        if isinstance(found.get("usage"), dict):
            found["usage"].pop(name, None)
    if "cache_creation_input_tokens" in found.get("usage", {}):
        found["usage"].pop("input_tokens")  # those of the cache are counted apart
    return found


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize(("text", "name"), [(WORDS, "words"), (SUMS, "sums")])
def test_a_routed_answer_is_the_chosen_models_own(http, path, text, name):
    body = BODIES[path](text)
    expected = http.post(path, json={**body, "model": name})
    assert expected.status_code == 200, expected.text
    assert "x-treadle-routed" not in expected.headers
    for router in ("both", "auto", None):
        asked = body if router is None else {**body, "model": router}
        found = http.post(path, json=asked)
        assert found.status_code == 200, found.text
        assert found.headers["x-treadle-routed"] == (router or "auto")
        assert varying(found.json()) == varying(expected.json())
        if "model" in expected.json():
            assert found.json()["model"] == name


def test_the_server_chooses_as_the_python_door(http, folder):
    llm = LLM(folder, weights="fp32")
    texts = ["what is 7 + 8 = ?", "tell a story of rivers", "1 + 1", "over there"]
    asked = [{"model": "both", "prompt": text, "max_tokens": 1} for text in texts]
    found = [http.post("/v1/completions", json=body).json()["model"] for body in asked]
    assert found == llm.route(texts)
    assert set(found) == set(NAMES)


def test_a_conversation_stays_with_the_model_of_its_first_message(http):
    talk = [
        {"role": "system", "content": WORDS},
        {"role": "user", "content": [{"type": "text", "text": SUMS}]},
        {"role": "assistant", "content": "22"},
        {"role": "user", "content": WORDS},
    ]
    body = {"model": "auto", "messages": talk, "max_tokens": 2}
    assert http.post("/v1/chat/completions", json=body).json()["model"] == "sums"
    first = http.post("/v1/responses", json={"model": "auto", "input": SUMS}).json()
    more = {"model": "auto", "input": WORDS, "previous_response_id": first["id"]}
    assert http.post("/v1/responses", json=more).json()["model"] == "sums"


def test_streams_say_who_answers(routed):
    with openai.OpenAI(base_url=f"{routed.url}/v1", api_key="any", max_retries=0) as client:
        asked = {"model": "auto", "max_tokens": 4, "temperature": 0, "stream": True}
        chunks = list(client.chat.completions.create(**asked, **chat(SUMS)))
        assert {chunk.model for chunk in chunks} == {"sums"}
        raw = client.completions.with_raw_response.create(prompt=WORDS, **asked)
        assert raw.headers["x-treadle-routed"] == "auto"
        assert {chunk.model for chunk in raw.parse()} == {"words"}


@pytest.mark.parametrize(
    ("path", "body", "code", "says"),
    [
        ("/v1/completions", {"prompt": [5, 6]}, "text_needed", "send the text"),
        ("/v1/completions", {"prompt": [[5, 6], [5]]}, "text_needed", "send the text"),
        ("/v1/completions", {"prompt": [SUMS, WORDS]}, "several_models", "a request for each"),
        (
            "/v1/chat/completions",
            {"messages": [{"role": "system", "content": SUMS}]},
            "text_needed",
            "no message of the user",
        ),
        ("/v1/embeddings", {"input": SUMS}, "one_model_needed", "ask one of words, sums"),
        ("/v1/score", {"text_1": "a", "text_2": "b"}, "one_model_needed", "ask one of words"),
        ("/detokenize", {"tokens": [5]}, "one_model_needed", "ask one of words, sums"),
    ],
)
def test_what_a_router_cannot_answer_is_refused(http, path, body, code, says):
    for more in ({"model": "both"}, {}):
        found = http.post(path, json={**body, **more})
        assert found.status_code == 400
        error = found.json()["error"]
        assert error["code"] == code
        assert says in error["message"]


def test_several_prompts_of_one_model_are_answered(http):
    body = {"model": "auto", "prompt": [SUMS, "22 + 11 ="], "max_tokens": 1}
    found = http.post("/v1/completions", json=body).json()
    assert found["model"] == "sums"
    assert len(found["choices"]) == 2


def test_the_lists_and_the_counts_know_the_router(http):
    models = {one["id"]: one for one in http.get("/v1/models").json()["data"]}
    assert list(models) == [*NAMES, "both", "auto"]
    assert models["auto"]["routes_to"] == NAMES
    assert models["auto"]["root"] == "both"
    assert http.get("/v1/models/both").json()["max_model_len"] == 512

    def count() -> float:
        (found,) = [
            line
            for line in http.get("/metrics").text.splitlines()
            if line.startswith('treadle:requests_routed_total{model_name="sums",router="auto"}')
        ]
        return float(found.split()[-1])

    http.post("/v1/completions", json={"model": "auto", "prompt": SUMS, "max_tokens": 1})
    before = count()
    http.post("/v1/completions", json={"model": "auto", "prompt": SUMS, "max_tokens": 1})
    http.post("/v1/completions", json={"model": "sums", "prompt": SUMS, "max_tokens": 1})
    assert count() == before + 1
    assert 'treadle:routing_seconds_count{router="auto"}' in http.get("/metrics").text
    status = {one["id"]: one for one in http.get("/status").json()["routers"]}
    assert status["auto"]["requests"]["sums"] == before + 1
    assert 0 < status["auto"]["mean_routing_seconds"] < 1
    assert status["auto"]["has_chat_template"]


def test_weights_are_loaded_once_and_adapters_stand_beside(folder, tmp_path):
    expert = folder / "experts" / "sums"
    adapter = write_adapter(tmp_path / "adapter", expert)
    given = [f"both={folder}", f"again={expert}"]
    opened = open_all(given, [f"sums/polite={adapter}"], FP32)
    models = {model.name: model for model in opened.models}
    assert set(models) == {"words", "sums", "again", "polite"}
    assert models["again"].llm is models["sums"].llm is models["polite"].llm
    assert models["polite"].adapter == "polite"
    both = {router.name: router for router in opened.routers}["both"]
    assert both.models == (models["words"], models["sums"])


def test_a_name_that_is_taken_is_refused(folder):
    other = folder / "experts" / "words"
    with pytest.raises(SettingsError, match=r"'both' has a model 'sums'.*NAME=MODEL"):
        open_all([f"sums={other}", f"both={folder}"], (), FP32)
    taken = open_all([f"both={folder}", f"auto={other}"], (), FP32)
    assert [router.name for router in taken.routers] == ["both"]


def test_a_name_that_no_header_carries_is_written_as_in_addresses(folder):
    opened = open_all([f"b\u00fccher%={folder}"], (), FP32)
    with running(opened.models, routers=opened.routers) as found:
        body = {"model": "b\u00fccher%", "prompt": SUMS, "max_tokens": 1}
        reply = httpx.post(f"{found.url}/v1/completions", json=body)
    assert reply.headers["x-treadle-routed"] == "b%C3%BCcher%25"
    assert reply.json()["model"] == "sums"


def test_a_bundle_with_a_missing_expert_is_refused(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "torn")
    shutil.rmtree(tmp_path / "torn" / "experts" / "sums")
    with pytest.raises(CheckpointError, match=r"has no expert 'sums'.*copy the whole"):
        open_all([str(tmp_path / "torn")], (), FP32)
