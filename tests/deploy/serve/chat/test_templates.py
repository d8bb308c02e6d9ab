"""What a model reads of a conversation, with and without a template that knows tools."""

import httpx
import pytest

from treadle.core.errors import DataError
from treadle.deploy.http.asked import Message, Tool
from treadle.deploy.http.errors import ApiError
from treadle.deploy.serve.catalogue import ServedModel
from treadle.deploy.serve.chat.conversation import Talk, written
from treadle.runtime import LLM

from ..servers import TEMPLATE, loaded, running

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
    return written(model, Talk(messages, tools))


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
    assert lines.count('"name": "look"') == 1
    assert '"finish_reason": "tool_calls"' in lines


SHOWS_CALLS = (
    "{% for m in messages %}<{{ m.role }}>"
    "{% for c in m.tool_calls or [] %}CALL {{ c.id }} {{ c.function.name }} ARGS{% endfor %}"
    "{{ m.content }}\n{% endfor %}"
)
TALK_OF_CALLS = [*TALK[1:3], TALK[3]]


@pytest.mark.parametrize(
    ("template", "says"),
    [
        # The plainest: arguments as an object, shown as JSON.
        (
            SHOWS_CALLS.replace("ARGS", "{{ c.function.arguments | tojson }}"),
            'CALL 1 look {"a": 1}',
        ),
        # DeepSeek's: arguments are text.
        (
            "{% for m in messages %}{% if m.role == 'assistant' and m.content is undefined %}"
            "{% for c in m.tool_calls %}{{ 'CALL ' + c.function.name + c.function.arguments }}"
            "{% endfor %}{% else %}<{{ m.role }}>{{ m.content }}\n{% endif %}{% endfor %}",
            'CALL look{"a": 1}',
        ),
        # Mistral's: ids of nine letters or digits.
        (
            "{% for m in messages %}{% for c in m.tool_calls or [] %}{% if c.id | length != 9 %}"
            "{{ raise_exception('ids must have a length of 9') }}{% endif %}CALL {{ c.id }} "
            "{{ c.function | tojson }}{% endfor %}<{{ m.role }}>{{ m.tool_call_id }}"
            "{{ m.content }}\n{% endfor %}",
            '6b86b273f {"name": "look", "arguments": {"a": 1}}',
        ),
        # Llama's: its values one by one.
        (
            SHOWS_CALLS.replace(
                "ARGS", "{% for k in c.function.arguments.items() %}{{ k }}{% endfor %}"
            ),
            "look ('a', 1)",
        ),
        # A vision model's: content is a list of parts.
        (
            "{% for m in messages %}{% for p in m.content or [] %}{% if p.type == 'text' %}"
            "{{ p.text }}\n{% endif %}{% endfor %}{% endfor %}",
            '<tool_call>\n{"name": "look", "arguments": {"a": 1}}\n</tool_call>',
        ),
        # None that knows calls: they are said in words, and so are results.
        (PLAIN, '<assistant><tool_call>\n{"name": "look", "arguments": {"a": 1}}\n</tool_call>'),
    ],
)  # fmt: skip
@pytest.mark.parametrize("has_tools", [False, True])
def test_calls_of_a_history_reach_the_model_whatever_its_template_wants(
    model, template, says, has_tools
):
    model.llm.prompts.tokenizer.chat_template = template
    found = text_of(model, TALK_OF_CALLS, [TOOL] if has_tools else [])
    assert says in found
    for word in ("hi", "blue"):
        assert word in found


def test_what_a_template_refuses_of_calls_is_said_in_words(model):
    model.llm.prompts.tokenizer.chat_template = (
        "{% for m in messages %}{% if m.tool_calls and m.tool_calls | length > 1 %}"
        "{{ raise_exception('one call at once') }}{% endif %}"
    ) + SHOWS_CALLS.removeprefix("{% for m in messages %}").replace("ARGS", "")
    one = TALK[2]["tool_calls"][0]
    two = {"id": "2", "function": {"name": "see", "arguments": '{"b": "cut'}}
    talk = [TALK[1], {"role": "assistant", "content": "So", "tool_calls": [one, two]}, TALK[3]]
    found = text_of(model, [*talk, {"role": "tool", "tool_call_id": "2", "content": "red"}], [])
    assert '{"name": "see", "arguments": {"b": "cut"}}' in found
    assert "blue\n</tool_response>\n<tool_response>\nred" in found
    assert "<assistant>So" in found


CALLS_ALONE = (
    "{% for m in messages %}<{{ m.role }}>{% if m.tool_calls %}{{ m.tool_calls | tojson }}"
    "{% else %}{{ m.content }}{% endif %}\n{% endfor %}"
)
LAST_SYSTEM = (
    "{% set ns = namespace(s='') %}{% for m in messages %}{% if m.role == 'system' %}"
    "{% set ns.s = m.content %}{% endif %}{% endfor %}{{ ns.s }}\n"
    "{% for m in messages if m.role != 'system' %}<{{ m.role }}>{{ m.content }}\n{% endfor %}"
)
SYSTEM_BEFORE_LAST_USER = (
    "{% set s = messages | selectattr('role', 'equalto', 'system') | list %}"
    "{% for m in messages %}{% if m.role == 'user' %}<user>{% if loop.last and s %}"
    "{{ s[0].content }} {% endif %}{{ m.content }}\n{% elif m.role != 'system' %}<{{ m.role }}>"
    "{{ (m.tool_calls or []) | tojson }}{{ m.content }}\n{% endif %}{% endfor %}"
)
BESIDE = {**TALK[2], "content": "Let me look at the sky."}


@pytest.mark.parametrize(
    ("template", "talk", "words"),
    [
        (CALLS_ALONE, [TALK[1], BESIDE, TALK[3]], ["hi", "look at the sky", '{"a": 1}', "blue"]),
        (LAST_SYSTEM, [TALK[0], {"role": "developer", "content": "second"}, TALK[1]],
         ["be", "second", "hi"]),
        (LAST_SYSTEM, [TALK[0], TALK[1], {"role": "system", "content": "later"}, TALK[1]],
         ["be", "later", "hi"]),
        (SYSTEM_BEFORE_LAST_USER, TALK, ["be", "hi", '{"a": 1}', "blue"]),
        (SYSTEM_BEFORE_LAST_USER, TALK[:1], ["be"]),
    ],
)  # fmt: skip
def test_what_a_template_drops_without_a_word_is_said_in_another_form(model, template, talk, words):
    model.llm.prompts.tokenizer.chat_template = template
    found = text_of(model, talk, [])
    for word in words:
        assert word in found.replace('\\"', '"'), found


def test_roles_that_must_alternate_do(model):
    model.llm.prompts.tokenizer.chat_template = (
        "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
        "{{ raise_exception('roles must alternate') }}{% endif %}<{{ m.role }}>{{ m.content }}"
        "{% endfor %}"
    )
    more = [{"role": "user", "content": "so?"}, {"role": "user", "content": "well?"}]
    found = text_of(model, [*TALK, *more], [])
    assert found.startswith("<user>be\n\nhi<assistant><tool_call>")
    assert found.endswith("blue\n</tool_response>\n\nso?\n\nwell?")
    assert text_of(model, [TALK[1], *more], []) == "<user>hi\n\nso?\n\nwell?"
    # A history whose start was cut off, and a system message in its middle.
    cut = [{"role": "assistant", "content": "I"}, TALK[0], TALK[1]]
    assert text_of(model, cut, []) == "<user>...<assistant>I<user>be\n\nhi"


@pytest.mark.parametrize(
    "refusal", ["{% if m.role == 'system' %}{{ raise_exception('no system') }}{% endif %}", ""]
)
def test_system_messages_reach_models_that_know_none(model, refusal):
    skips = "{% if m.role != 'system' %}<{{ m.role }}>{{ m.content }}\n{% endif %}{% endfor %}"
    model.llm.prompts.tokenizer.chat_template = "{% for m in messages %}" + refusal + skips
    assert text_of(model, TALK[:2], []) == "<user>be\n\nhi\n"
    assert "You can call these functions" in text_of(model, TALK[1:2], [TOOL])
    assert text_of(model, TALK[:1], []) == "<user>be\n"


def test_refusals_and_thoughts_of_a_history(model):
    model.llm.prompts.tokenizer.chat_template = (
        "{% for m in messages %}<{{ m.role }}>({{ m.reasoning_content }}){{ m.content }}"
        "{% endfor %}"
    )
    talk = [
        {"role": "assistant", "content": None, "refusal": "I will not."},
        {"role": "assistant", "content": "So.", "reasoning": "Hm."},
    ]
    assert text_of(model, talk, []) == "<assistant>()I will not.<assistant>(Hm.)So."


def test_a_message_that_is_gone_on_with_and_values_of_templates(model):
    tokenizer = model.llm.prompts.tokenizer
    tokenizer.chat_template = TEMPLATE + "{% if enable_thinking %}<think>{% endif %}"
    talk = [Message.model_validate(m) for m in (TALK[1], {"role": "assistant", "content": "Well,"})]
    found = written(model, Talk(talk, continues=True))
    assert found.endswith("<assistant>Well,")
    assert written(model, Talk(talk[:1], values={"enable_thinking": True})).endswith("<think>")
    assert written(model, Talk(talk[:1], opens_answer=False)).endswith("hi\n")
    for name in ("tools", "tokenize", "messages", "chat_template"):
        with pytest.raises(ApiError, match=f"sets '{name}', which the server decides"):
            written(model, Talk(talk, values={name: 1}))
