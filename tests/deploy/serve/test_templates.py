"""What a model reads of a conversation, with and without a template that knows tools."""

import httpx
import pytest

from treadle.core.errors import DataError
from treadle.deploy.http.asked import Message, Tool
from treadle.deploy.http.errors import ApiError
from treadle.deploy.serve.catalogue import ServedModel
from treadle.deploy.serve.templates import conversation
from treadle.runtime import LLM

from .servers import TEMPLATE, loaded, running

PLAIN = "{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}"
TOOL = Tool.model_validate({"type": "function", "function": {"name": "look"}})
TALK = [
    {"role": "system", "content": "be"},
    {"role": "user", "content": "hi"},
    {
        "role": "assistant",
        "tool_calls": [{"id": "1", "function": {"name": "look", "arguments": '{"a": 1}'}}],
    },
    {"role": "tool", "tool_call_id": "1", "content": "blue"},
]


@pytest.fixture
def model(chatty) -> ServedModel:
    return ServedModel("tiny", LLM(chatty, weights="fp32"))


def text_of(model: ServedModel, talk: list[dict], tools: list[Tool]) -> str:
    messages = [Message.model_validate(entry) for entry in talk]
    return model.llm.prompts.tokenizer.decode(conversation(model, messages, tools))


def test_a_template_that_knows_tools_gets_them(model):
    found = text_of(model, TALK[:2], [TOOL])
    assert found.startswith("<tools>[{")
    assert '"name": "look"' in found
    assert found.endswith("<system>be\n<user>hi\n<assistant>")
    assert "<tools>" not in text_of(model, TALK[:2], [])


def test_a_template_that_knows_none_has_them_in_the_system_message(model):
    model.llm.prompts.tokenizer.chat_template = PLAIN
    found = text_of(model, TALK, [TOOL])
    assert found.startswith("<system>be\n\nYou can call these functions:\n<tools>\n")
    assert '<tool_call>\n{"name": "look", "arguments": {"a": 1}}\n</tool_call>' in found
    assert "<user><tool_response>\nblue\n</tool_response>" in found
    assert text_of(model, TALK[1:2], [TOOL]).startswith("<system>You can call")


def test_a_template_that_refuses_and_none_at_all(model):
    tokenizer = model.llm.prompts.tokenizer
    tokenizer.chat_template = "{{ raise_exception('roles must alternate') }}"
    with pytest.raises(ApiError, match="roles must alternate"):
        text_of(model, TALK[:1], [])
    for broken in ("{% for %}", "{{ nobody.at_home }}", "{{ 1 / 0 }}", "{{ messages[0] | none }}"):
        tokenizer.chat_template = broken
        with pytest.raises(ApiError, match="is broken, as it fails for any message") as found:
            text_of(model, TALK[:1], [])
        assert found.value.status == 500
        with pytest.raises(DataError, match=r"is broken, .*copy chat_template.jinja"):
            model.llm.prompts.chat([{"role": "user", "content": "hi"}])
    tokenizer.chat_template = "{{ messages[0].content.strip() }}"
    with pytest.raises(DataError, match=r"refuses the messages .*give each a role and a content"):
        model.llm.prompts.chat([{"role": "user"}])
    tokenizer.chat_template = None
    with pytest.raises(ApiError, match="no chat template; use /v1/completions"):
        text_of(model, TALK[:1], [])


CALL = r'<tool_call>\n\{"name": "look", "arguments": \{"at": "sky"\}\}\n</tool_call>'


@pytest.mark.parametrize(
    ("tool_format", "answer"),
    [
        ("auto", CALL),
        ("mistral", r'\[TOOL_CALLS\]\[\{"name": "look", "arguments": \{"at": "sky"\}\}\]'),
        ("llama3", r'\{"name": "look", "parameters": \{"at": "sky"\}\}'),
    ],
)
def test_calls_that_the_model_writes_of_its_own_reach_the_client(chatty, tool_format, answer):
    assert "<tool_call>" not in TEMPLATE  # hermes is what auto falls back on
    body = {
        "messages": [{"role": "user", "content": "hi"}],
        "tools": [TOOL.model_dump(exclude_none=True)],
        "structured_outputs": {"regex": rf"Well\. {answer}" if tool_format == "auto" else answer},
        "max_tokens": 200,
        "logprobs": True,
    }
    with running(loaded(chatty), tool_format=tool_format) as found:
        whole = httpx.post(f"{found.url}/v1/chat/completions", json=body, timeout=120).json()
        lines = httpx.post(
            f"{found.url}/v1/chat/completions", json={**body, "stream": True}, timeout=120
        ).text
    choice = whole["choices"][0]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] == ("Well. " if tool_format == "auto" else None)
    (call,) = choice["message"]["tool_calls"]
    assert call["function"] == {"name": "look", "arguments": '{"at": "sky"}'}
    assert lines.count('"tool_calls": [') == 1
    assert '"finish_reason": "tool_calls"' in lines
