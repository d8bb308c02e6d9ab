"""Calls of tools in what models write, family by family and sign by sign."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from treadle.deploy.serve.chat.calls import FORMATS, CallReader, format_of
from treadle.deploy.serve.chat.pieces import ChatPiece


@pytest.mark.parametrize(
    ("name", "pieces", "text", "calls"),
    [
        ("hermes", ['Hi <tool_call>\n{"name": "f", "arguments": {"a": 1}}', "\n</tool_call>"],
         "Hi ", [("f", {"a": 1})]),
        ("hermes", ['<tool', '_call>{"name":"f","arguments":{}}</tool_call>\n<tool_call>'
                    '{"name":"g","arguments":{}}</tool_call>'], "", [("f", {}), ("g", {})]),
        ("hermes", ["a <tool", "box>"], "a <toolbox>", []),
        ("hermes", ["<tool_call>no json</tool_call> a"], "<tool_call>no json</tool_call> a", []),
        ("hermes", ["<tool_call></tool_call>"], "<tool_call></tool_call>", []),
        ("hermes", ['<tool_call>{"name": 3}</tool_call><tool_call>{"name":"f","arguments":null}'
                    "</tool_call>"], '<tool_call>{"name": 3}</tool_call>', [("f", {})]),
        ("hermes", ['<tool_call>{"arguments": "{}", "name": "f"}</tool_call>'], "", [("f", {})]),
        ("hermes", ['<tool_call>{"name":"f","arguments":{"a":"</tool_call>","b":[{"c":"}"}]},'
                    '"id":"x"}</tool_call>'], "",
         [("f", {"a": "</tool_call>", "b": [{"c": "}"}]})]),
        ("hermes", ['<tool_call>[{"name":"f","arguments":{}},{"name":"g"}]</tool_call>'], "",
         [("f", {}), ("g", {})]),
        ("hermes", ['<tool_call>{"name":"f","arguments":{}} so</tool_call> it'],
         " so</tool_call> it", [("f", {})]),
        ("hermes", ['<tool_call>{"name":"f","arguments":{}}'], "", [("f", {})]),
        ("hermes", ["<tool_call>{"], "<tool_call>{", []),
        ("llama3", ['{"name": "f", ', '"parameters": {"a": 1}}'], "", [("f", {"a": 1})]),
        ("llama3", ['<|python_tag|>{"name":"f","parameters":{}}; {"name":"g","parameters":{}}'],
         "", [("f", {}), ("g", {})]),
        ("llama3", ['{"other": 1}'], '{"other": 1}', []),
        ("llama3", ["Say {", "}"], "Say {}", []),
        ("llama3", ['{"name": "Bob", "parameters": {"a": 1}}'],
         '{"name": "Bob", "parameters": {"a": 1}}', []),
        ("llama3", ["[1, 2]"], "[1, 2]", []),
        ("llama3", ["<|python_tag|>print(1)"], "<|python_tag|>print(1)", []),
        ("llama3", ['{"type": "function", "name": "f", "parameters": {"a": "\\u00e9\\""}}'], "",
         [("f", {"a": 'é"'})]),
        ("mistral", ["[TOOL_", 'CALLS] [{"name":"f","arguments":{"a":1}}]'], "", [("f", {"a": 1})]),
        ("mistral", ["plain [TOOL"], "plain [TOOL", []),
    ],
)  # fmt: skip
def test_each_familys_calls_are_found_piece_by_piece(name, pieces, text, calls):
    whole = "".join(pieces)
    for parts in (pieces, list(whole), [whole]):
        reader = CallReader(name, {"f", "g"})
        found = [piece for part in parts for piece in reader.feed(part)] + reader.finish()
        assert "".join(piece.text for piece in found if piece.kind == "text") == text
        assert calls_in(found) == calls


def calls_in(pieces: list[ChatPiece]) -> list[tuple[str, dict]]:
    called: list[list[str]] = []
    for piece in pieces:
        if piece.kind == "call":
            called.append([piece.text, ""])
        elif piece.kind == "arguments":
            called[-1][1] += piece.text
    return [(name, json.loads(arguments)) for name, arguments in called]


@pytest.mark.parametrize(("name", "begin"), [("hermes", "<tool_call>"), ("llama3", "")])
def test_arguments_go_on_while_they_are_written(name, begin):
    reader = CallReader(name, {"f"})
    reader.feed(f'{begin}{{"name": "f", "{"parameters" if not begin else "arguments"}": ')
    assert reader.feed('{"a": "lo') == [ChatPiece("call", "f"), ChatPiece("arguments", '{"a": "lo')]
    assert reader.feed("ng") == [ChatPiece("arguments", "ng")]
    assert reader.finish() == []  # cut off: the client has what there is


@given(st.text(alphabet='<tool_call>/{}[]":,\\ nameargumentsf1\n', max_size=60), st.data())
@settings(max_examples=200, deadline=None)
def test_pieces_do_not_depend_on_where_they_are_cut_and_nothing_is_lost(text, data):
    text = (
        data.draw(st.sampled_from(["", "<tool_call>", '<tool_call>{"name":"f","arguments":{']))
        + text
    )
    for name in FORMATS:
        whole = CallReader(name, {"f"})
        expected = whole.feed(text) + whole.finish()
        parted = CallReader(name, {"f"})
        found = [piece for sign in text for piece in parted.feed(sign)] + parted.finish()
        for kind in ("text", "arguments", "call"):
            joined = ["".join(p.text for p in some if p.kind == kind) for some in (expected, found)]
            assert joined[0] == joined[1]
        if not any(piece.kind == "call" for piece in expected):
            assert "".join(p.text for p in expected).lstrip() == text.lstrip()


def test_formats_are_read_off_templates():
    assert format_of("x [TOOL_CALLS] y") == "mistral"
    assert format_of("x <|python_tag|> y") == "llama3"
    assert format_of("x <tool_call> y") == format_of("") == "hermes"
