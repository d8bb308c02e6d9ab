"""Bodies of all kinds: what is wrong is said of what was sent, in the branch that was meant."""

import json
import time

import pytest

from treadle.deploy.http.asked import (
    AllowedTools,
    AskedChat,
    AskedCompletion,
    AskedResponse,
    parse,
)
from treadle.deploy.http.errors import ApiError

HELLO = [{"role": "user", "content": "hello"}]
TOOL = {"type": "function", "function": {"name": "f"}}


def read(kind, **values):
    return parse(kind, json.dumps(values).encode())


def mistake(kind, **values) -> str:
    with pytest.raises(ApiError) as found:
        read(kind, **values)
    assert found.value.status == 400
    return found.value.message


@pytest.mark.parametrize(
    ("kind", "values", "says"),
    [
        (AskedChat, {"messages": [{"role": "user", "content": [{"type": "text", "text": 3}]}]},
         "Found messages[0].content[0].text = 3: Input should be a valid string"),
        (AskedChat, {"messages": [*HELLO, {"role": "user", "content": [
            {"type": "text", "text": "a"}, {"type": "image_url", "image_url": {"url": "x"}}]}]},
         "Found messages[1].content[1].type = 'image_url': it cannot be read, as the models here "
         "read text only"),
        (AskedChat, {"messages": [{"role": "user", "content": 3}]}, "messages[0].content = 3"),
        (AskedChat, {"messages": [{"role": "user", "content": "a", "colour": 1}]},
         "There is no messages[0].colour here; leave it out."),
        (AskedChat, {"messages": HELLO, "tools": [TOOL], "tool_choice": {"type": "function"}},
         "tool_choice.function is missing; add it."),
        (AskedChat, {"messages": HELLO, "tools": [TOOL], "tool_choice": {
            "type": "allowed_tools", "allowed_tools": {"mode": "never", "tools": []}}},
         "tool_choice.allowed_tools.mode = 'never'"),
        (AskedChat, {"messages": HELLO, "tools": [TOOL], "tool_choice": "always"},
         "tool_choice = 'always'"),
        (AskedChat, {"messages": HELLO, "tools": [{"type": "custom", "custom": {"name": "x"}}]},
         "tools[0].type = 'custom': nothing here runs such a tool"),
        (AskedChat, {"messages": HELLO, "response_format": {"type": "yaml"}},
         "response_format.type = 'yaml'"),
        (AskedCompletion, {"prompt": ["a", 1]}, "prompt[1] = 1: Input should be a valid string"),
        (AskedCompletion, {"prompt": [1, "a"]}, "prompt[1] = 'a': Input should be a valid integer"),
        (AskedCompletion, {"prompt": [[1, 2], [3, 1.5]]}, "prompt[1][1] = 1.5"),
        (AskedCompletion, {"prompt": "a", "stop": ["a", None]}, "stop[1] = None"),
        (AskedResponse, {"input": [{"role": "x", "content": "b"}]}, "input[0].role = 'x'"),
    ],
)  # fmt: skip
def test_the_branch_that_was_meant_is_blamed(kind, values, says):
    assert says in mistake(kind, **values)


def test_whole_numbers_with_a_point_are_whole():
    found = read(
        AskedCompletion, prompt=[1.0, 2.0], max_tokens=16.0, seed=-3.0, stop_token_ids=[5.0]
    )
    assert (found.prompt, found.max_tokens, found.seed) == ([1, 2], 16, -3)
    assert type(found.max_tokens) is int
    assert read(AskedCompletion, prompt=[[1.0], [2]]).prompt == [[1], [2]]
    for wrong in (16.5, True, "16", 1e400):
        assert (
            "max_tokens" in mistake(AskedCompletion, prompt="a", max_tokens=wrong) or wrong == 1e400
        )


def test_null_for_a_name_that_is_not_known_is_left_out_wherever_it_stands():
    message = {**HELLO[0], "provider_specific_fields": None, "audio": None}
    found = read(AskedChat, messages=[message], mystery=None)
    assert found.messages[0].text == "hello"
    assert "provider_specific_fields" in mistake(
        AskedChat, messages=[{**message, "provider_specific_fields": {"a": 1}}]
    )


def test_what_agents_write_into_messages_and_tools_is_taken():
    parts = [{"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}}]
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": None}}
    found = read(
        AskedChat,
        messages=[
            {"role": "user", "content": parts, "cache_control": {"type": "ephemeral"}},
            {"role": "assistant", "content": None, "tool_calls": [call], "refusal": None},
            {"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]},
        ],
        tools=[{**TOOL, "cache_control": {"type": "ephemeral"}}],
        tool_choice={
            "type": "allowed_tools",
            "allowed_tools": {"mode": "auto", "tools": [TOOL]},
        },
    )
    assert [message.text for message in found.messages] == ["a", "", "no"]
    assert isinstance(found.tool_choice, AllowedTools)


def test_an_unknown_name_is_answered_with_the_near_one_alone():
    assert mistake(AskedChat, messages=HELLO, temprature=1).endswith("Did you mean 'temperature'?")
    far = mistake(AskedChat, messages=HELLO, qqqq=1)
    assert far == "Unknown parameter 'qqqq'. Leave it out; /openapi.json lists all."


@pytest.mark.parametrize(
    ("kind", "body", "says"),
    [
        (AskedCompletion, {"prompt": ["a", *[1] * 300_000]}, "prompt[1] = 1"),
        (AskedChat, {"messages": [{"role": "x", "content": 1}] * 60_000}, "messages[0].role"),
        (AskedChat, {"messages": HELLO * 60_000}, "at most 16384"),
        (AskedCompletion, {"prompt": [*[1.0] * 300_000, 0.5]}, "prompt[300000] = 0.5"),
    ],
)
def test_a_million_mistakes_take_nobodys_time(kind, body, says):
    content = json.dumps(body).encode()
    began = time.process_time()
    with pytest.raises(ApiError) as found:
        parse(kind, content)
    assert time.process_time() - began < 3  # 0.1 s; each was 3 to 36 s when all were looked at
    assert says in found.value.message
