"""Vectors, scores, tokens, models and adapters, metrics, the document; and bytes of all kinds."""

import base64
import copy
import json

import httpx
import numpy as np
import openai
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runtime.adapters import write_adapter
from treadle.runtime import SamplingParams

from .servers import loaded, running

TEXTS = ["def f(x):", "import inspect"]


def test_vectors_are_the_runtimes_of_length_one(client, server, llm):
    expected = llm.embed(TEXTS)
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    ids = [llm.prompts.tokens(text) for text in TEXTS]
    for given_input in (TEXTS, ids):
        for form in ("float", "base64", openai.NOT_GIVEN):
            found = client.embeddings.create(model="tiny", input=given_input, encoding_format=form)
            vectors = [
                np.frombuffer(base64.b64decode(e.embedding), np.float32)
                if isinstance(e.embedding, str)
                else e.embedding
                for e in found.data
            ]
            np.testing.assert_allclose(vectors, expected, atol=1e-6)
            assert found.usage.prompt_tokens == sum(map(len, ids))
    one = client.embeddings.create(model="tiny", input=ids[0]).data
    np.testing.assert_allclose(one[0].embedding, expected[0], atol=1e-6)


def test_scores(web, llm):
    found = web.post("/v1/score", json={"text_1": TEXTS[0], "text_2": TEXTS})
    same, other = (entry["score"] for entry in found.json()["data"])
    assert same == pytest.approx(1, abs=1e-6)
    assert -1 <= other < 0.999
    body = {"text_1": TEXTS[:1], "text_2": TEXTS[1], "kind": "loglikelihood"}
    found = web.post("/v1/score", json=body).json()
    first, second = (llm.prompts.tokens(text) for text in TEXTS)
    (expected,) = llm.generate([first + second], SamplingParams(max_tokens=1, prompt_logprobs=0))
    behind = zip(second, expected.prompt_logprobs[len(first) :], strict=True)
    total = sum(entry[token] for token, entry in behind)
    assert found["data"][0]["score"] == pytest.approx(total, abs=1e-6)
    for body in ({"text_1": ["a", "b"], "text_2": ["c"]}, {"text_1": "a", "text_2": []}):
        assert web.post("/v1/score", json=body).status_code == 400


def test_tokens_there_and_back(web, llm):
    found = web.post("/tokenize", json={"prompt": TEXTS[0]}).json()
    assert found["tokens"] == llm.prompts.tokens(TEXTS[0])
    assert (found["count"], found["max_model_len"]) == (len(found["tokens"]), 1024)
    back = web.post("/detokenize", json={"tokens": found["tokens"]})
    assert back.json() == {"prompt": TEXTS[0]}
    messages = [{"role": "user", "content": "hello"}]
    talk = web.post("/tokenize", json={"messages": messages, "return_token_strs": True}).json()
    assert talk["tokens"] == llm.prompts.chat(messages)
    assert "".join(talk["token_strs"]) == llm.prompts.tokenizer.decode(talk["tokens"])
    tool = {"type": "function", "function": {"name": "look"}}
    with_tools = web.post("/tokenize", json={"messages": messages, "tools": [tool]}).json()
    asked = {"messages": messages, "tools": [tool], "max_tokens": 1}
    usage = web.post("/v1/chat/completions", json=asked).json()["usage"]
    assert with_tools["count"] == usage["prompt_tokens"] > talk["count"]
    long = web.post("/tokenize", json={"prompt": "x" * 3000})
    assert long.json()["count"] == 3000
    for path, body in (
        ("tokenize", {}),
        ("tokenize", {"prompt": "a", "messages": messages}),
        ("tokenize", {"messages": []}),
        ("tokenize", {"prompt": "a", "tools": [tool]}),
        ("tokenize", {"messages": messages, "add_special_tokens": False}),
        ("tokenize", {"messages": messages, "continue_final_message": True}),
        ("detokenize", {"tokens": [5000]}),
        ("detokenize", {"tokens": [-1]}),
    ):
        assert web.post(f"/{path}", json=body).status_code == 400


def test_models_and_paths(web, client):
    assert [model.id for model in client.models.list()] == ["tiny"]
    assert client.models.retrieve("tiny").root == "tiny"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("other")
    assert web.get("/nowhere").json()["error"]["code"] == "not_found"
    wrong = web.get("/v1/completions")
    assert wrong.status_code == 405
    assert wrong.headers["Allow"]
    assert wrong.json()["error"]["code"] == "method_not_allowed"


def test_names_of_one_model_share_its_weights(chatty, llama):
    from treadle.deploy.serve import opening

    sources = {"gpt": str(chatty), "other": str(llama), "claude": f"{chatty}/."}
    first = opening._first_names(sources)
    assert first == {"gpt": "gpt", "other": "other", "claude": "gpt"}
    served = opening._load(sources, (), opening.ServeEngineSettings(weights="fp32"))
    assert served[0].llm is served[2].llm is not served[1].llm
    with running([served[0], served[2]]) as found:
        client = openai.OpenAI(base_url=f"{found.url}/v1", api_key="any", max_retries=0)
        models = {model.id: model.root for model in client.models.list()}
        assert models == {"gpt": "gpt", "claude": "gpt"}
        ask = {"prompt": TEXTS[0], "max_tokens": 6, "temperature": 0}
        found = [client.completions.create(model=m, **ask) for m in ("gpt", "claude")]
        assert found[0].choices[0].text == found[1].choices[0].text
        assert [answer.model for answer in found] == ["gpt", "claude"]
        client.close()
    named = opening._beside({"claude/polite": "x"}, first, list(sources))
    assert named == {"gpt": {"polite": "x"}, "other": {}}


def test_adapters_are_models_and_models_stand_side_by_side(chatty, llama, tmp_path, llm):
    adapter = write_adapter(tmp_path / "adapter", chatty)
    served = [
        *loaded(chatty, "base", adapters={"polite": adapter}),
        *loaded(llama, "other"),
    ]
    llm.add_adapter("polite", adapter)
    try:
        params = SamplingParams(max_tokens=6, temperature=0)
        (expected,) = llm.generate(TEXTS[0], params, adapter="polite")
        (plain,) = llm.generate(TEXTS[0], params)
        vector = llm.embed(TEXTS[0], adapter="polite")[0]
    finally:
        llm.remove_adapter("polite")
    with running(served) as found:
        client = openai.OpenAI(base_url=f"{found.url}/v1", api_key="any", max_retries=0)
        models = {model.id: model for model in client.models.list()}
        assert list(models) == ["base", "polite", "other"]
        assert (models["polite"].parent, models["polite"].root) == ("base", "base")
        ask = {"prompt": TEXTS[0], "max_tokens": 6, "temperature": 0}
        answers = {m: client.completions.create(model=m, **ask).choices[0].text for m in models}
        assert answers["polite"] == expected.outputs[0].text != plain.outputs[0].text
        assert answers["base"] == plain.outputs[0].text
        embedded = client.embeddings.create(model="polite", input=TEXTS[0], encoding_format="float")
        np.testing.assert_allclose(
            embedded.data[0].embedding, vector / np.linalg.norm(vector), atol=1e-6
        )
        with pytest.raises(openai.BadRequestError, match="No model is named"):
            client.post("/completions", body=ask, cast_to=object)
        client.close()


def test_metrics_count_what_was_answered(chatty):
    with running(loaded(chatty)) as found:
        body = {"prompt": TEXTS[0], "max_tokens": 5, "ignore_eos": True, "n": 2}
        answer = httpx.post(f"{found.url}/v1/completions", json=body).json()
        text = httpx.get(f"{found.url}/metrics").text
        values = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
        label = '{model_name="tiny"}'
        count = answer["usage"]["prompt_tokens"]
        assert float(values[f"vllm:prompt_tokens_total{label}"]) == count
        assert float(values[f"vllm:generation_tokens_total{label}"]) == 10
        assert float(values[f"vllm:num_requests_running{label}"]) == 0
        assert float(values[f"vllm:kv_cache_usage_perc{label}"]) == 0
        assert float(values[f"vllm:time_to_first_token_seconds_count{label}"]) == 2
        assert float(values[f"vllm:e2e_request_latency_seconds_count{label}"]) == 2
        assert float(values[f"treadle:chosen_tokens_total{label}"]) == 10
        assert float(values[f"treadle:choosing_passes_total{label}"]) == 10
        status = httpx.get(f"{found.url}/status").json()
        assert status["tokens_generated"] == 10
        assert len(status["recent"]) == 2
        assert status["recent"][0]["finish_reason"] == "length"
        assert status["engines"][0]["running"] == 0


def test_metrics_count_drafts(chatty):
    with running(loaded(chatty, speculate={"method": "ngram", "shortest": 1})) as found:
        body = {"prompt": TEXTS[0], "max_tokens": 40, "ignore_eos": True, "temperature": 0}
        texts = [
            httpx.post(f"{found.url}/v1/completions", json=body).json()["choices"][0]["text"]
            for _ in range(2)
        ]
        assert texts[0] == texts[1]
        text = httpx.get(f"{found.url}/metrics").text
        values = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
        label = '{model_name="tiny"}'
        (engine,) = httpx.get(f"{found.url}/status").json()["engines"]
        for kind, name in (("draft", "drafted"), ("accepted", "accepted")):
            counted = float(values[f"vllm:spec_decode_num_{kind}_tokens_total{label}"])
            assert counted == engine[name] > 0
        chosen = float(values[f"treadle:chosen_tokens_total{label}"])
        assert chosen == 80
        assert engine["tokens_per_pass"] > 1
        assert float(values[f"treadle:choosing_passes_total{label}"]) < 80


def test_the_document_names_every_parameter_and_every_path(web):
    found = web.get("/openapi.json").json()
    assert found["openapi"].startswith("3.1")
    schema = found["components"]["schemas"]["AskedCompletion"]
    assert schema["properties"]["temperature"]["description"]
    assert schema["additionalProperties"] is False
    for path, entry in found["paths"].items():
        for method in set(entry) - {"parameters"}:
            there = path.replace("{name}", "nobody")
            answer = web.request(method, there, content=b"" if method == "post" else None)
            assert str(answer.status_code) in entry[method]["responses"]


def test_every_parameter_has_help_and_none_is_listed_twice():
    from treadle.deploy.http.openapi import _BODIES

    for kind, _ in _BODIES.values():
        for name, field in kind.model_fields.items():
            assert field.description, f"{kind.__name__}.{name}"
            assert name not in {**kind.ignored, **kind.refused}


def test_the_page_is_whole_by_itself(web):
    page = web.get("/")
    assert page.headers["content-type"].startswith("text/html")
    assert "/status" in page.text
    for outside in ("http://", "https://", "src=", "@import", "url("):
        assert outside not in page.text
    rules = page.headers["content-security-policy"]
    for rule in ("default-src 'none'", "connect-src 'self'", "frame-ancestors 'none'"):
        assert rule in rules


PATHS = ["/v1/completions", "/v1/chat/completions", "/v1/embeddings", "/v1/score"]
PATHS += ["/tokenize", "/detokenize", "/v1/responses", "/v1/messages", "/v1/messages/count_tokens"]
SEEDS = [
    {"prompt": "a", "max_tokens": 2, "stop": ["b"], "logprobs": 1, "echo": True, "n": 1},
    {"messages": [{"role": "user", "content": "a"}], "max_tokens": 2, "logit_bias": {"5": 1}},
    {"input": ["a", "b"], "encoding_format": "base64"},
    {"text_1": "a", "text_2": ["b"], "kind": "loglikelihood"},
    {"prompt": "a", "add_special_tokens": False},
    {"tokens": [1, 2]},
    {
        "input": [
            {"role": "user", "content": [{"type": "input_text", "text": "a"}]},
            {"type": "reasoning", "id": "1", "summary": []},
            {"type": "function_call", "call_id": "1", "name": "f", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "1", "output": "b"},
        ],
        "max_output_tokens": 2,
        "tools": [{"type": "function", "name": "f", "parameters": {}}],
        "text": {"format": {"type": "json_object"}},
    },
    {
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "a"}]},
            {"role": "assistant", "content": [
                {"type": "tool_use", "id": "1", "name": "f", "input": {}}]},
            {"role": "user", "content": [
                {"type": "tool_result", "tool_use_id": "1", "content": [
                    {"type": "text", "text": "b"}]}]},
        ],
        "max_tokens": 2,
        "tools": [{"name": "f", "input_schema": {"type": "object"}}],
        "tool_choice": {"type": "auto"},
        "system": "be",
    },
    {"messages": [{"role": "user", "content": "a"}]},
]  # fmt: skip
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from([2**63, -1, 1e308, "", "auto", "\x00", 10**400]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)


def require_sound(answer: httpx.Response) -> None:
    assert answer.status_code < 500, answer.text
    if answer.status_code != 200:
        found = answer.json()
        is_anthropic = found.get("type") == "error"
        own = {"message", "type", *(("details",) if is_anthropic else ("param", "code"))}
        assert set(found["error"]) == own


def places_in(body: object, above: tuple = ()) -> list[tuple]:
    """Return the paths of all that stands in a body."""
    inner = body.items() if isinstance(body, dict) else ()
    inner = enumerate(body) if isinstance(body, list) else inner
    return [above, *(place for key, value in inner for place in places_in(value, (*above, key)))]


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_mutated_bodies_give_no_500(web, data):
    place = data.draw(st.integers(0, len(PATHS) - 1))
    body = copy.deepcopy(SEEDS[place])
    *above, last = data.draw(st.sampled_from(places_in(body)[1:]))
    holder = body
    for step in above:
        holder = holder[step]
    if data.draw(st.booleans()):
        holder[last] = data.draw(VALUES)
    names = st.sampled_from([*body, "temperature", "stream", "tools", "seed", "response_format",
                             "structured_outputs", "stop_token_ids", "priority", "tool_choice",
                             "top_logprobs", "top_k", "stream_options", "cache_salt"])  # fmt: skip
    for name in data.draw(st.lists(names, max_size=3)):
        body[name] = data.draw(VALUES)
    require_sound(web.post(PATHS[place], content=json.dumps(body)))


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.integers(0, len(PATHS) - 1), content=st.binary(max_size=60), cut=st.integers(0, 90))
def test_random_bytes_give_no_500(web, place, content, cut):
    whole = json.dumps(SEEDS[place]).encode()
    for body in (content, whole[:cut] + content, whole[:cut] + content + whole[cut:]):
        require_sound(web.post(PATHS[place], content=body))


FORMS = st.sampled_from(
    [
        {"json": {"type": "object"}}, {"json": {"$ref": "#"}}, {"json": {"type": "nope"}},
        {"json": "{"}, {"json": {"pattern": "("}}, {"regex": "(?<=a)b"}, {"regex": "a{1000000}"},
        {"choice": []}, {"choice": ["a", ""]}, {"grammar": "start: "}, {"grammar": "root ::= x"},
        {"json": {"allOf": [{"type": "string"}, {"type": "number"}]}}, {"regex": "\x00"},
    ]
)  # fmt: skip


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(form=FORMS, stream=st.booleans())
def test_odd_forms_give_no_500(web, form, stream):
    body = {"prompt": "a", "max_tokens": 4, "structured_outputs": form, "stream": stream}
    require_sound(web.post("/v1/completions", json=body))
