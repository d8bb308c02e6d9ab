"""What clients send back of an answer, with names of their own, and values that change nothing."""

from datetime import datetime

import pytest
from pydantic import ValidationError

from treadle.deploy.http.asked import AskedResponse, Message, parse
from treadle.deploy.http.asked.chat import TextPart
from treadle.deploy.http.asked.lists import NEUTRAL, REFUSED
from treadle.deploy.http.errors import ApiError

HELLO = {"role": "user", "content": "hello"}
FUNCTION = {"name": "f", "arguments": "{}", "parsed_arguments": {}}
CALL = {"id": "c", "type": "function", "function": FUNCTION, "provider_specific_fields": {"a": 1}}
ANSWER = {
    "role": "assistant",
    "content": [{"type": "output_text", "text": "a", "parsed": {"b": 1}}],
    "parsed": {"b": 1},
    "reasoning_content": "hm",
    "thinking_blocks": [{"type": "thinking", "thinking": "hm"}],
    "provider_specific_fields": {"a": 1},
    "tool_calls": [CALL],
}
ITEMS = [
    {"type": "reasoning", "id": "r", "summary": [], "format": "unknown", "content": []},
    {
        "type": "message",
        "role": "assistant",
        "content": [{"type": "output_text", "text": "a", "parsed": {}}],
        "created_by": "me",
    },
    {
        "type": "function_call",
        "call_id": "c",
        "name": "f",
        "arguments": "{}",
        "parsed_arguments": {},
        "namespace": "n",
    },
    {"type": "function_call_output", "call_id": "c", "output": "1", "created_by": "me"},
]
BLOCKS = [
    {"type": "thinking", "thinking": "hm", "signature": "", "index": 0},
    {"type": "text", "text": "a", "parsed_output": {}, "citations": None},
    {"type": "tool_use", "id": "c", "name": "f", "input": {}, "toolset_name": "t"},
]


def test_what_clients_add_to_an_answer_is_no_parameter(web):
    chat = {"messages": [HELLO, ANSWER, {"role": "tool", "tool_call_id": "c", "content": "1"}]}
    found = web.post("/v1/chat/completions", json={**chat, "max_tokens": 1})
    assert found.status_code == 200, found.text
    found = web.post("/v1/responses", json={"input": [HELLO, *ITEMS], "max_output_tokens": 1})
    assert found.status_code == 200, found.text
    result = {"type": "tool_result", "tool_use_id": "c", "content": "1", "toolset_name": "t"}
    turns = [HELLO, {"role": "assistant", "content": BLOCKS}, {"role": "user", "content": [result]}]
    found = web.post("/v1/messages", json={"messages": turns, "max_tokens": 1})
    assert found.status_code == 200, found.text
    assert Message(**ANSWER).tool_calls[0].function.arguments == "{}", "what is known stays"


def test_whole_answers_go_back_as_they_came(web):
    """Each interface takes all that it gave, whatever of it a client keeps."""
    body = {"messages": [HELLO], "max_tokens": 4}
    choice = web.post("/v1/chat/completions", json=body).json()["choices"][0]
    message = web.post("/v1/messages", json=body).json()
    items = web.post("/v1/responses", json={"input": [HELLO], "max_output_tokens": 4}).json()
    answered = {**choice, **choice["message"]}
    result = {"role": "tool", "tool_call_id": "c", "content": "1", "status": "success"}
    for path, more in (
        ("/v1/chat/completions", {"messages": [HELLO, answered, HELLO, result]}),
        ("/tokenize", {"messages": [HELLO, answered, HELLO, result]}),
        ("/v1/messages", {"messages": [HELLO, message, HELLO]}),
        ("/v1/messages/count_tokens", {"messages": [HELLO, message, HELLO]}),
        ("/v1/responses", {"input": [HELLO, *items["output"], HELLO]}),
    ):
        limit = {"/v1/responses": "max_output_tokens"}.get(path, "max_tokens")
        most = {} if "token" in path else {limit: 1}
        found = web.post(path, json={**more, **most})
        assert found.status_code == 200, found.text
    kept = Message(role="assistant", reasoning="hm", reasoning_details=[{"text": "hm"}])
    assert kept.thoughts == "hm"


@pytest.mark.parametrize(
    "message",
    [
        {"role": "assistant", "text": "a"},
        {"role": "assistant", "content": "a", "tool_call": []},
        {"role": "assistant", "content": "a", "audio": {"id": "x"}},
        {"role": "assistant", "content": [{"type": "text", "content": "a"}]},
        {
            "role": "assistant",
            "tool_calls": [{"id": "c", "function": {"name": "f", "args": "{}"}}],
        },
        {"role": "user", "content": "a", "parsed": {}},
    ],
)
def test_what_might_be_meant_is_not_passed_over(message):
    with pytest.raises(ValidationError):
        Message(**message)


def test_a_misspelt_name_of_a_part_is_refused():
    assert TextPart(type="text", text="a", index=0).written == "a"
    with pytest.raises(ValidationError, match="cache_contro\\n"):
        TextPart(type="text", text="a", cache_contro=1)


def test_refused_parameters_may_ask_for_what_happens_anyway(web):
    body = {"messages": [HELLO], "max_tokens": 1}
    for name in ("modalities", "verbosity", "function_call"):
        for value in NEUTRAL[name]:
            found = web.post("/v1/chat/completions", json={**body, name: value})
            assert found.status_code == 200, found.text
        other = web.post("/v1/chat/completions", json={**body, name: "other"})
        assert REFUSED[name] in other.json()["error"]["message"]
    answer = b'{"input": "a", "background": false, "n": 1, "truncation": "auto"}'
    assert parse(AskedResponse, answer).truncation == "auto"
    for wrong in (b'{"input": "a", "background": true}', b'{"input": "a", "n": true}'):
        with pytest.raises(ApiError, match="is not supported"):
            parse(AskedResponse, wrong)


def test_a_thread_is_refused_in_the_words_that_its_client_goes_on_after(web):
    body = {"messages": [HELLO], "max_tokens": 1, "thread": {"type": "create"}}
    found = web.post("/v1/messages", json=body)
    assert found.status_code == 400
    error = found.json()["error"]
    assert error["details"] == {"error_code": "thread_unsupported_request"}
    assert "send all of the messages" in error["message"]


def test_a_format_has_an_older_name(web):
    form = {"type": "json_schema", "schema": {"enum": ["sky"]}}
    body = {"messages": [HELLO], "max_tokens": 20}
    for more in ({"output_format": form}, {"output_config": {"format": form}}):
        found = web.post("/v1/messages", json={**body, **more}).json()
        assert found["content"][0]["text"] == '"sky"'


def test_models_are_listed_for_both_families_of_clients(web, client):
    page = web.get("/v1/models").json()
    (entry,) = page["data"]
    assert (entry["id"], entry["display_name"], entry["type"]) == ("tiny", "tiny", "model")
    made = datetime.fromisoformat(entry["created_at"])
    assert made.timestamp() == client.models.retrieve("tiny").created
    assert made.tzinfo is not None
    assert (page["first_id"], page["last_id"], page["has_more"]) == ("tiny", "tiny", False)
