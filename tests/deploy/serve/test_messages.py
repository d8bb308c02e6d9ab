"""/v1/messages: Anthropic's interface, by its own client where it is installed, and by hand."""

import json
from unittest.mock import Mock

import pytest

from treadle.core.errors import CheckpointError

from .servers import loaded, running

LOOK = {
    "name": "look",
    "input_schema": {
        "type": "object",
        "properties": {"at": {"$ref": "#/$defs/Place"}},
        "required": ["at"],
        "additionalProperties": False,
        "$defs": {"Place": {"enum": ["sky", "sea"]}},
    },
}
HELLO = [{"role": "user", "content": "hello"}]
SETTINGS = {"max_tokens": 8, "temperature": 0}


def events_of(text: str) -> list[dict]:
    """Return the events of a stream; each has its type as its name."""
    found = []
    for block in text.strip().split("\n\n"):
        name, data = block.split("\n")
        found.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {found[-1]['type']}"
    return found


def test_a_message_is_the_chats(web):
    body = {**SETTINGS, "messages": HELLO, "system": [{"type": "text", "text": "be"}]}
    found = web.post("/v1/messages", json=body).json()
    chat = [{"role": "system", "content": "be"}, *HELLO]
    expected = web.post("/v1/chat/completions", json={**SETTINGS, "messages": chat}).json()
    assert found["content"] == [
        {"type": "text", "text": expected["choices"][0]["message"]["content"]}
    ]
    assert (found["stop_reason"], found["stop_sequence"]) == ("max_tokens", None)
    usage = found["usage"]
    assert (
        usage["input_tokens"] + usage["cache_read_input_tokens"]
        == (expected["usage"]["prompt_tokens"])
    )
    count = web.post("/v1/messages/count_tokens", json={k: body[k] for k in ("messages", "system")})
    assert count.json() == {"input_tokens": expected["usage"]["prompt_tokens"]}
    stop = found["content"][0]["text"][2:4]
    stopped = web.post("/v1/messages", json={**body, "stop_sequences": [stop]}).json()
    assert (stopped["stop_reason"], stopped["stop_sequence"]) == ("stop_sequence", stop)
    # More than the context has left is what it has left.
    long = web.post("/v1/messages", json={**body, "max_tokens": 32_000, "stop_sequences": [stop]})
    assert long.status_code == 200


def test_a_count_says_that_the_tokenizers_files_are_gone(web, server, monkeypatch):
    (llm,) = server.serving.catalogue.llms.values()
    gone = CheckpointError("The files are gone; put them back.")
    monkeypatch.setattr(type(llm.prompts), "reader", property(Mock(side_effect=gone)))
    failed = web.post("/v1/messages/count_tokens", json={"messages": HELLO})
    assert failed.status_code == 500
    assert failed.json()["error"]["message"] == str(gone)


def test_a_stream_grows_into_the_whole(web):
    body = {**SETTINGS, "messages": HELLO}
    whole = web.post("/v1/messages", json=body).json()
    events = events_of(web.post("/v1/messages", json={**body, "stream": True}).text)
    kinds = [event["type"] for event in events]
    assert kinds[:2] == ["message_start", "content_block_start"]
    assert kinds[-3:] == ["content_block_stop", "message_delta", "message_stop"]
    text = "".join(e["delta"]["text"] for e in events if e["type"] == "content_block_delta")
    assert text == whole["content"][0]["text"]
    assert events[-2]["delta"]["stop_reason"] == whole["stop_reason"]
    assert events[-2]["usage"]["output_tokens"] == whole["usage"]["output_tokens"]


@pytest.mark.parametrize("choice", [{"type": "any"}, {"type": "tool", "name": "look"}])
def test_a_call_and_its_result(web, choice):
    body = {"max_tokens": 100, "temperature": 0, "messages": HELLO, "tools": [LOOK]}
    forced = {**body, "tool_choice": {**choice, "disable_parallel_tool_use": True}}
    whole = web.post("/v1/messages", json=forced).json()
    (call,) = whole["content"]
    assert (call["type"], call["name"]) == ("tool_use", "look")
    assert call["input"]["at"] in ("sky", "sea")
    assert whole["stop_reason"] == "tool_use"
    events = events_of(web.post("/v1/messages", json={**forced, "stream": True}).text)
    parts = [e["delta"]["partial_json"] for e in events if e["type"] == "content_block_delta"]
    assert json.loads("".join(parts)) == call["input"]
    assert len(parts) > 3
    result = {"type": "tool_result", "tool_use_id": call["id"], "is_error": True,
              "content": [{"type": "text", "text": "dark"}]}  # fmt: skip
    history = [*HELLO, {"role": "assistant", "content": [call]},
               {"role": "user", "content": [result, {"type": "text", "text": "so?"}]}]  # fmt: skip
    assert web.post("/v1/messages", json={**body, "messages": history}).status_code == 200
    cut = web.post("/v1/messages", json={**forced, "max_tokens": 12}).json()
    assert cut["stop_reason"] == "max_tokens"
    again = [*HELLO, {"role": "assistant", "content": cut["content"]}, *HELLO]
    assert web.post("/v1/messages", json={**body, "messages": again}).status_code == 200


def test_an_answer_goes_on_with_the_assistants_last_message(web):
    chat = [*HELLO, {"role": "assistant", "content": "Well"}]
    found = web.post("/v1/messages", json={**SETTINGS, "messages": chat}).json()
    expected = web.post(
        "/v1/chat/completions",
        json={**SETTINGS, "messages": chat, "continue_final_message": True},
    ).json()
    assert found["content"][0]["text"] == expected["choices"][0]["message"]["content"]


def test_what_agents_send_along_is_taken(web):
    body = {
        **SETTINGS,
        "messages": [
            {"role": "user", "content": [
                {"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}}]},
            {"role": "assistant", "content": [
                {"type": "thinking", "thinking": "hm", "signature": ""},
                {"type": "text", "text": "b"}]},
            {"role": "user", "content": "c"},
        ],
        "thinking": {"type": "enabled", "budget_tokens": 1024},
        "output_config": {"effort": "high"},
        "metadata": {"user_id": "me"},
        "service_tier": "auto",
        "context_management": {"edits": []},
        "tools": [{**LOOK, "cache_control": {"type": "ephemeral"}}],
        "tool_choice": {"type": "none"},
    }  # fmt: skip
    found = web.post("/v1/messages?beta=true", json=body, headers={"anthropic-beta": "x"})
    assert found.status_code == 200, found.text


@pytest.mark.parametrize(
    ("body", "status", "kind", "says"),
    [
        ({"messages": HELLO}, 400, "invalid_request_error", "'max_tokens' is missing"),
        ({"model": "nobody"}, 404, "not_found_error", "No model 'nobody'"),
        ({"messages": [{"role": "user", "content": [{"type": "image", "source": {}}]}]}, 400,
         "invalid_request_error", "blocks of type 'image' cannot be read"),
        ({"messages": [{"role": "user", "content": [{"type": "tool_result", "tool_use_id": "1",
         "content": [{"type": "image", "source": {}}]}]}]}, 400, "invalid_request_error",
         "messages[0].content[0].content[0].type = 'image': it cannot be read"),
        ({"messages": [{"role": "user", "content": [
            {"type": "tool_use", "id": "1", "name": "f", "input": {}}]}]}, 400,
         "invalid_request_error", "which the other side writes"),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search", "max_uses": 3}]}, 400,
         "invalid_request_error", "tools[0].type = 'web_search_20250305': nothing here runs"),
        ({"tools": [LOOK], "tool_choice": {"type": "tool"}}, 400, "invalid_request_error",
         "without a name"),
        ({"tools": [{**LOOK, "input_schema": {"type": "no"}}], "tool_choice": {"type": "any"}}, 400,
         "invalid_request_error", "tools[0].input_schema (of 'look')"),
        ({"messages": [{"role": "user", "content": "x" * 3000}]}, 400, "invalid_request_error",
         "prompt is too long"),
    ],
)  # fmt: skip
def test_errors_are_anthropics(web, body, status, kind, says):
    whole = body if body == {"messages": HELLO} else {**SETTINGS, "messages": HELLO, **body}
    found = web.post("/v1/messages", json=whole)
    assert found.status_code == status, found.text
    assert found.json()["type"] == "error"
    assert found.json()["error"]["type"] == kind
    assert says in found.json()["error"]["message"]


def test_keys_and_methods_are_refused_in_its_words_too(chatty):
    import httpx

    with running(loaded(chatty), keys=["one"]) as found:
        refused = httpx.post(f"{found.url}/v1/messages", json={})
        assert refused.json()["error"]["type"] == "authentication_error"
        headers = {"x-api-key": "one"}
        assert httpx.get(f"{found.url}/v1/messages", headers=headers).status_code == 405
        asked = {**SETTINGS, "messages": HELLO}
        assert (
            httpx.post(f"{found.url}/v1/messages", json=asked, headers=headers).status_code == 200
        )
