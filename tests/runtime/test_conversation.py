"""Messages as people and programs write them: roles, parts, calls of tools."""

import pytest

from treadle.core.errors import DataError
from treadle.runtime.conversation import plain_messages

PARTS = [{"type": "text", "text": "What is "}, {"type": "text", "text": "a loom?"}]


def call(arguments: object) -> dict:
    function = {"name": "look", "arguments": arguments}
    return {"id": "c1", "type": "function", "function": function}


def test_parts_become_a_text_and_developers_the_system():
    given = [
        {"role": "developer", "content": [{"type": "text", "text": "be"}]},
        {"role": "user", "content": PARTS, "name": "ann"},
        {"role": "assistant", "content": None},
        {"role": "user", "content": []},
    ]
    before = [dict(message) for message in given]
    assert plain_messages(given) == [
        {"role": "system", "content": "be"},
        {"role": "user", "content": "What is a loom?", "name": "ann"},
        {"role": "assistant", "content": ""},
        {"role": "user", "content": ""},
    ]
    assert given == before


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        ('{"at": "sky"}', {"at": "sky"}),
        ({"at": "sky"}, {"at": "sky"}),
        *(("", {}), ("null", {}), (None, {})),
        ('{"at": "sk', '{"at": "sk'),  # cut off by max_tokens
    ],
)
def test_calls_of_tools_as_templates_take_them(arguments, found):
    calls = [call(arguments)]
    answer = {"role": "tool", "tool_call_id": "c1", "content": PARTS[:1]}
    plain = plain_messages([{"role": "assistant", "tool_calls": calls}, answer])
    assert plain[0] == {"role": "assistant", "content": "", "tool_calls": [call(found)]}
    assert plain[1] == {"role": "tool", "tool_call_id": "c1", "content": "What is "}
    assert plain_messages([{"role": "user", "content": "a", "tool_calls": None}]) == [
        {"role": "user", "content": "a"}
    ]


@pytest.mark.parametrize(
    ("message", "says"),
    [
        ({"role": "usr"}, r"messages\[1\]\.role = 'usr', .* Did you mean 'user'\?"),
        ({"content": "a"}, r"messages\[1\]\.role = None, .*Choose one of: system"),
        ({"role": 5}, "role = 5"),
        (
            {"role": "user", "content": [PARTS[0], {"type": "image_url", "image_url": {}}]},
            r"messages\[1\]\.content\[1\] of type 'image_url', .*text only; leave it out",
        ),
        ({"role": "user", "content": [{"type": 5}]}, "of type 5"),
        ({"role": "user", "content": [{"text": "a"}]}, r"content\[0\] = .*a part of text; give"),
        ({"role": "user", "content": ["a"]}, r"content\[0\] = 'a', expected a part of text"),
        ({"role": "user", "content": [{"type": "text", "text": None}]}, "expected a part of text"),
        ({"role": "user", "content": {"type": "text"}}, "a text or a list of text parts"),
        ({"role": "user", "content": 5}, r"messages\[1\]\.content = 5"),
        ({"role": "assistant", "tool_calls": "look"}, r"tool_calls = 'look', expected a list"),
        ({"role": "assistant", "tool_calls": [{}]}, r"tool_calls\[0\] = \{\}, expected a call"),
        ({"role": "assistant", "tool_calls": [{"function": {"name": 5}}]}, "expected a call"),
    ],
)
def test_what_no_template_should_see(message, says):
    with pytest.raises(DataError, match=says):
        plain_messages([{"role": "user", "content": "a"}, message])
