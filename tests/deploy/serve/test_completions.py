"""Completions through the official client, against the runtime in process."""

import openai
import pytest

from treadle.runtime import SamplingParams

PROMPT = "def f(x):"


def test_text_ids_and_lists_give_what_the_runtime_gives(client, llm):
    params = SamplingParams(max_tokens=6, temperature=0)
    (expected,) = llm.generate(PROMPT, params)
    ids = expected.prompt_token_ids
    for prompt in (PROMPT, [PROMPT, PROMPT], ids, [ids, ids]):
        found = client.completions.create(model="tiny", prompt=prompt, max_tokens=6, temperature=0)
        several = isinstance(prompt, list) and not isinstance(prompt[0], int)
        assert [c.index for c in found.choices] == ([0, 1] if several else [0])
        assert {c.text for c in found.choices} == {expected.outputs[0].text}
        assert found.usage.prompt_tokens == len(ids) * len(found.choices)
        assert found.usage.completion_tokens == 6 * len(found.choices)
        assert found.choices[0].finish_reason == expected.outputs[0].finish_reason


def test_seed_penalties_bias_and_filters_give_what_the_runtime_gives(client, llm):
    settings = {
        "temperature": 0.7,
        "top_p": 0.8,
        "seed": 7,
        "presence_penalty": 0.5,
        "frequency_penalty": -0.5,
        "logit_bias": {"70": 2.0},
        "stop": ["zz"],
    }
    more = {"top_k": 20, "min_p": 0.01, "repetition_penalty": 1.1, "min_tokens": 2}
    params = SamplingParams.from_dict({"max_tokens": 12, **settings, **more})
    (expected,) = llm.generate(PROMPT, params)
    found = client.completions.create(
        model="tiny", prompt=PROMPT, max_tokens=12, **settings, extra_body=more
    )
    assert found.choices[0].text == expected.outputs[0].text


def test_several_answers_differ_and_keep_their_place(client):
    found = client.completions.create(
        model="tiny", prompt=["a", "b"], n=3, max_tokens=8, temperature=2, seed=1
    )
    assert [c.index for c in found.choices] == list(range(6))
    assert len({c.text for c in found.choices}) > 4


def test_stream_joins_to_the_whole(client):
    settings = {"model": "tiny", "prompt": [PROMPT, "import"], "max_tokens": 12, "temperature": 0}
    whole = client.completions.create(**settings, logprobs=2)
    chunks = list(
        client.completions.create(
            **settings, logprobs=2, stream=True, stream_options={"include_usage": True}
        )
    )
    for place, choice in enumerate(whole.choices):
        parts = [c.choices[0] for c in chunks if c.choices and c.choices[0].index == place]
        assert "".join(part.text for part in parts) == choice.text
        assert [t for p in parts if p.logprobs for t in p.logprobs.tokens] == choice.logprobs.tokens
        assert [p.finish_reason for p in parts][-1] == choice.finish_reason
        assert len(parts) > 1
    assert chunks[-1].usage == whole.usage.model_copy(
        update={"prompt_tokens_details": chunks[-1].usage.prompt_tokens_details}
    )


@pytest.mark.parametrize("max_tokens", [0, 1])
def test_echo_gives_the_likelihoods_that_lm_eval_reads(client, llm, max_tokens):
    texts = ["def f(x): return x", "import inspect"]
    given = [llm.prompts.tokens(text) for text in texts]
    found = client.completions.create(
        model="tiny",
        prompt=given,
        max_tokens=max_tokens,
        logprobs=1,
        echo=True,
        temperature=0,
        seed=1234,
    )
    params = SamplingParams(max_tokens=1, temperature=0, prompt_logprobs=1, logprobs=1)
    for choice, ids, text in zip(found.choices, given, texts, strict=True):
        (expected,) = llm.generate([ids], params)
        entries = choice.logprobs
        assert len(entries.token_logprobs) == len(ids) + max_tokens
        assert len(entries.top_logprobs) == len(entries.text_offset) == len(entries.tokens)
        assert entries.token_logprobs[0] is None
        for place, (token, entry) in enumerate(
            zip(ids[1:], expected.prompt_logprobs[1:], strict=True), 1
        ):
            assert entries.token_logprobs[place] == pytest.approx(entry[token], abs=1e-6)
            best = max(entries.top_logprobs[place].values())
            assert best == pytest.approx(max(entry.values()), abs=1e-6)
        assert choice.text.startswith(text)
        offsets = entries.text_offset[: len(ids)]
        tokens = entries.tokens[: len(ids)]
        assert [text[at:].startswith(t) for at, t in zip(offsets, tokens, strict=True)] == [
            True
        ] * len(ids)


def test_bytes_that_are_no_text_are_named(client, llm):
    ids = llm.prompts.tokens("é")
    found = client.completions.create(
        model="tiny", prompt=ids, max_tokens=1, logprobs=0, echo=True, temperature=0
    )
    assert found.choices[0].logprobs.tokens[:2] == ["bytes:\\xc3", "bytes:\\xa9"]


@pytest.mark.parametrize(
    ("body", "code", "says"),
    [
        ({"prompt": ""}, "invalid_input", "empty"),
        ({"prompt": []}, "empty", "empty"),
        ({"prompt": [[]]}, "context_length_exceeded|invalid_input", "empty"),
        ({"prompt": [400]}, "invalid_input", "Token 0 of the prompt is 400"),
        ({"prompt": "x" * 3000}, "context_length_exceeded", "1024"),
        ({"prompt": "x", "max_tokens": 1024}, "context_length_exceeded", "lower max_tokens"),
        ({"prompt": "x", "temprature": 1}, "unknown_parameter", "Did you mean 'temperature'"),
        ({"prompt": "x", "suffix": "y"}, "unsupported_parameter", "fill a gap"),
        ({"prompt": "x", "temperature": "hot"}, "invalid_type", "'hot'"),
        ({"prompt": "x", "temperature": 3}, "invalid_value", "less than or equal to 2"),
        ({"prompt": "x", "n": True}, "invalid_type", "integer"),
        ({"prompt": "x", "n": 2, "temperature": 0}, "invalid_value", "same answer"),
        ({"prompt": "x", "best_of": 3}, "contradiction", "n=1"),
        ({"prompt": "x", "max_tokens": 0}, "contradiction", "echo"),
        ({"prompt": "x", "stream_options": {"include_usage": True}}, "contradiction", "stream"),
        ({"prompt": "x", "min_tokens": 9, "max_tokens": 2}, "invalid_value", "contradicts"),
        ({"prompt": "x", "logit_bias": {"a": 1}}, "invalid_value", "token ids"),
        ({"prompt": "x", "logit_bias": {"5000": 1}}, "invalid_input", "token 5000"),
        ({"prompt": "x", "stop": [""]}, "invalid_value", "not empty"),
        ({"prompt": "x", "structured_outputs": {"regex": "("}}, "invalid_value", "compiled"),
        ({"prompt": "x", "structured_outputs": {}}, "invalid_value", "exactly one"),
        (
            {"prompt": "x", "structured_outputs": {"json": {"$ref": "#"}}},
            "invalid_schema",
            "leads back to itself",
        ),
        (
            {"prompt": "x", "structured_outputs": {"json": '{"$ref": "#"}'}},
            "invalid_schema",
            "structured_outputs.json",
        ),
        ({}, "missing", "'prompt' is missing"),
    ],
)
def test_mistakes_are_named(web, body, code, says):
    found = web.post("/v1/completions", json={"model": "tiny", **body})
    error = found.json()["error"]
    assert found.status_code == 400
    assert error["code"] in code.split("|")
    assert says in error["message"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"


def test_the_clients_exceptions(client):
    with pytest.raises(openai.NotFoundError, match="Did you mean 'tiny'"):
        client.completions.create(model="tinny", prompt="x")
    with pytest.raises(openai.BadRequestError, match="maximum context length is 1024 tokens"):
        client.completions.create(model="tiny", prompt="x" * 3000)


def test_what_is_ignored_and_what_null_means(web):
    body = {"prompt": "x", "max_tokens": 2, "temperature": 0}
    plain = web.post("/v1/completions", json=body).json()
    nulls = dict.fromkeys(("suffix", "stop", "top_p", "logprobs", "user", "model", "n"))
    more = {**body, **nulls, "metadata": {"a": "b"}, "store": True}
    assert web.post("/v1/completions", json=more).json()["choices"] == plain["choices"]


def test_filters_at_temperature_zero_change_nothing(client):
    settings = {"model": "tiny", "prompt": PROMPT, "max_tokens": 5, "temperature": 0}
    plain = client.completions.create(**settings)
    assert client.completions.create(**settings, top_p=0.5).choices == plain.choices
    cold = {**settings, "temperature": 1e-310}
    assert client.completions.create(**cold).choices == plain.choices


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"{", "no JSON"),
        (b"\xff\xfe", "no JSON"),
        (b'{"prompt": "\xff"}', "no JSON"),
        (b'{"prompt": "\\ud800"}', "no JSON"),
        (b"[1]", "expected an object"),
        (b"", "no JSON"),
        (b'{"prompt": "x", "temperature": NaN}', "no JSON"),
        (b"[" * 100_000, "no JSON"),
    ],
)
def test_bodies_that_are_no_json(web, content, says):
    found = web.post("/v1/completions", content=content)
    assert found.status_code == 400
    assert says in found.json()["error"]["message"]
