"""Conversations through the official client: streams, tools, forms."""

import json

import pytest

from treadle.runtime import SamplingParams

HELLO = [{"role": "user", "content": "hello"}]
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "look",
            "parameters": {
                "type": "object",
                "properties": {"at": {"enum": ["sky", "sea"]}},
                "required": ["at"],
                "additionalProperties": False,
            },
        },
    }
]
SCHEMA = {
    "type": "object",
    "properties": {"a": {"enum": ["x", "y"]}},
    "required": ["a"],
    "additionalProperties": False,
}


def test_an_answer_is_the_runtimes(client, llm):
    (expected,) = llm.chat(HELLO, SamplingParams(max_tokens=6, temperature=0))
    found = client.chat.completions.create(
        model="tiny", messages=HELLO, max_completion_tokens=6, temperature=0
    )
    assert found.choices[0].message.content == expected.outputs[0].text
    assert found.choices[0].message.role == "assistant"
    assert found.usage.completion_tokens == 6


def test_parts_and_developers_are_text_and_system(client):
    settings = {"model": "tiny", "max_tokens": 6, "temperature": 0}
    plain = [{"role": "system", "content": "be"}, *HELLO]
    parts = [{"type": "text", "text": "hel"}, {"type": "text", "text": "lo"}]
    other = [{"role": "developer", "content": "be"}, {"role": "user", "content": parts}]
    found = [
        client.chat.completions.create(messages=m, **settings).choices[0].message.content
        for m in (plain, other)
    ]
    assert found[0] == found[1]


def test_stream_and_logprobs(client):
    settings = {
        "model": "tiny",
        "messages": HELLO,
        "max_tokens": 8,
        "seed": 3,
        "n": 2,
        "logprobs": True,
        "top_logprobs": 2,
    }
    whole = client.chat.completions.create(**settings)
    chunks = list(
        client.chat.completions.create(
            **settings, stream=True, stream_options={"include_usage": True}
        )
    )
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    for place, choice in enumerate(whole.choices):
        parts = [c.choices[0] for c in chunks if c.choices and c.choices[0].index == place]
        assert "".join(p.delta.content or "" for p in parts) == choice.message.content
        places = [entry for p in parts if p.logprobs for entry in p.logprobs.content]
        assert [p.token for p in places] == [p.token for p in choice.logprobs.content]
        assert all(len(p.top_logprobs) == 2 for p in places)
        assert parts[-1].finish_reason == choice.finish_reason


def test_a_schema_is_kept(client):
    for kind in (
        {"type": "json_schema", "json_schema": {"name": "s", "schema": SCHEMA, "strict": True}},
        {"type": "json_object"},
    ):
        found = client.chat.completions.create(
            model="tiny", messages=HELLO, max_tokens=400, response_format=kind, seed=2
        )
        if found.choices[0].finish_reason == "stop":
            assert isinstance(json.loads(found.choices[0].message.content), dict)
        else:
            assert kind["type"] == "json_object"
    assert json.loads(
        client.chat.completions.create(
            model="tiny",
            messages=HELLO,
            max_tokens=40,
            extra_body={"structured_outputs": {"json": SCHEMA}},
        )
        .choices[0]
        .message.content
    )["a"] in ("x", "y")


@pytest.mark.parametrize("is_streamed", [False, True])
@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "look"}}])
def test_a_call_that_must_come(client, choice, is_streamed):
    settings = {
        "model": "tiny",
        "messages": HELLO,
        "tools": TOOLS,
        "tool_choice": choice,
        "max_tokens": 200,
        "parallel_tool_calls": False,
        "temperature": 0,
    }
    if is_streamed:
        chunks = list(client.chat.completions.create(**settings, stream=True))
        calls = [c for chunk in chunks for c in chunk.choices[0].delta.tool_calls or []]
        reason = chunks[-1].choices[0].finish_reason
        assert {call.index for call in calls} == {0}
        assert len(calls) > 3  # as they are written
        calls[0].function.arguments = "".join(call.function.arguments for call in calls)
    else:
        found = client.chat.completions.create(**settings).choices[0]
        calls, reason = found.message.tool_calls, found.finish_reason
        assert found.message.content is None
    assert calls[0].function.name == "look"
    assert json.loads(calls[0].function.arguments)["at"] in ("sky", "sea")
    assert calls[0].id
    assert reason == ("tool_calls" if choice == "required" else "stop")


def test_earlier_calls_and_their_results_are_taken(client):
    call = {"id": "1", "type": "function", "function": {"name": "look", "arguments": "{}"}}
    messages = [
        *HELLO,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "1", "content": "blue"},
    ]
    found = client.chat.completions.create(
        model="tiny", messages=messages, tools=TOOLS, max_tokens=3
    )
    assert found.usage.completion_tokens <= 3


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"messages": []}, "at least 1"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "it cannot be read"),
        ({"top_logprobs": 2}, "without logprobs"),
        ({"max_tokens": 3, "max_completion_tokens": 4}, "mean the same"),
        ({"tool_choice": "required"}, "without tools"),
        ({"tools": TOOLS * 2}, "tools[0] and tools[1] are both called 'look'"),
        (
            {"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "x"}}},
            "names 'x'",
        ),
        ({"response_format": {"type": "json_schema"}}, "without json_schema"),
        (
            {"response_format": {"type": "json_object"}, "structured_outputs": {"regex": "a"}},
            "leave the other out",
        ),
        ({"functions": [{"name": "f"}]}, "gave way to tools"),
        ({"audio": {}}, "text only"),
        ({"max_tokens": 5000}, "lower max_tokens"),
    ],
)  # fmt: skip
def test_mistakes_are_named(web, body, says):
    body = {"messages": HELLO, **body}
    found = web.post("/v1/chat/completions", json=body)
    assert found.status_code == 400, found.text
    assert says in found.json()["error"]["message"]
