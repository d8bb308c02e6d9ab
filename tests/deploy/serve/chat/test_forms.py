"""Forms of answers: schemas keep their own references, and each error names its schema."""

import json

import pytest

from treadle.deploy.http.asked import ResponseFormat, Tool
from treadle.deploy.serve.chat.answer import Turn
from treadle.deploy.serve.chat.forms import form_of
from treadle.deploy.serve.references import flaw_in, referring

PLACE = {
    "type": "object",
    "properties": {"x": {"enum": [1, 2]}, "next": {"$ref": "#/$defs/Place"}},
    "required": ["x"],
    "additionalProperties": False,
}
REFERENCES = {
    "$defs": {"type": "object", "properties": {"at": {"$ref": "#/$defs/Place"}},
              "required": ["at"], "additionalProperties": False, "$defs": {"Place": PLACE}},
    "definitions": {"type": "object", "properties": {"at": {"$ref": "#/definitions/Other"}},
                    "required": ["at"], "additionalProperties": False,
                    "definitions": {"Other": {"enum": ["a"]}}},
    "root": {"type": "object", "properties": {"v": {"enum": [0]}, "in": {"$ref": "#"}},
             "required": ["v"], "additionalProperties": False},
    "property": {"type": "object", "properties": {"b": {"enum": ["k"]},
                                                  "c": {"$ref": "#/properties/b"}},
                 "required": ["b", "c"], "additionalProperties": False},
}  # fmt: skip


def tool(name: str, schema: dict | None, **more: object) -> dict:
    return {"type": "function", "function": {"name": name, "parameters": schema, **more}}


TOOLS = [tool(name.strip("$"), schema) for name, schema in REFERENCES.items()]
HELLO = [{"role": "user", "content": "hello"}]


@pytest.mark.parametrize("choice", ["required", *(t["function"]["name"] for t in TOOLS)])
def test_references_mean_what_they_meant_in_each_schema(web, choice):
    named = {"type": "function", "function": {"name": choice}}
    body = {
        "messages": HELLO,
        "tools": TOOLS,
        "tool_choice": "required" if choice == "required" else named,
        "parallel_tool_calls": False,
        "temperature": 0,
        "max_tokens": 200,
    }
    found = web.post("/v1/chat/completions", json=body).json()
    (call,) = found["choices"][0]["message"]["tool_calls"]
    if choice != "required":
        assert call["function"]["name"] == choice
    json.loads(call["function"]["arguments"])


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        ({"type": "object", "properties": {"a": {"$ref": "#/$defs/None"}}}, "does not exist"),
        ({"type": "objekt"}, "objekt"),
        ({"$ref": "#/$defs/A", "$defs": {"A": {"$ref": "#/$defs/A"}}}, "leads back to itself"),
        ({"type": "object", "properties": {"a": {"$ref": "#/properties/a"}}}, "back to itself"),
    ],
)
def test_an_error_names_the_schema_that_the_client_sent(web, schema, reason):
    good, bad = tool("good", PLACE | {"$defs": {"Place": PLACE}}), tool("bad", schema)
    body = {"messages": HELLO, "tools": [good, bad], "tool_choice": "required"}
    form = {"type": "json_schema", "json_schema": {"name": "s", "schema": schema}}
    for more, where in (
        ({}, "tools[1].function.parameters (of 'bad')"),
        ({"tool_choice": {"type": "function", "function": {"name": "bad"}}}, "tools[1]"),
        ({"tools": None, "tool_choice": None, "response_format": form},
         "response_format.json_schema.schema"),
        ({"tools": [good], "tool_choice": "auto", "response_format": form}, "response_format"),
    ):  # fmt: skip
        found = web.post("/v1/chat/completions", json={**body, **more})
        error = found.json()["error"]
        assert (found.status_code, error["code"]) == (400, "invalid_schema")
        assert where in error["message"]
        assert reason in error["message"]
        assert "grammar" not in error["message"]
        assert "%json" not in error["message"]


def test_what_no_grammar_keeps_is_left_to_the_tool_unless_it_is_strict(web):
    schema = {"type": "object", "properties": {"a": {"enum": [1], "not": {"const": 2}}},
              "required": ["a"], "additionalProperties": False}  # fmt: skip
    body = {"messages": HELLO, "tool_choice": "required", "temperature": 0, "max_tokens": 200,
            "parallel_tool_calls": False}  # fmt: skip
    found = web.post("/v1/chat/completions", json={**body, "tools": [tool("f", schema)]}).json()
    (call,) = found["choices"][0]["message"]["tool_calls"]
    assert json.loads(call["function"]["arguments"]) == {"a": 1}
    strict = web.post(
        "/v1/chat/completions", json={**body, "tools": [tool("f", schema, strict=True)]}
    )
    assert 'Unimplemented keys: ["not"]' in strict.json()["error"]["message"]
    nothing = web.post("/v1/chat/completions", json={**body, "tools": [tool("f", None)]}).json()
    (call,) = nothing["choices"][0]["message"]["tool_calls"]
    assert json.loads(call["function"]["arguments"]) == {}


def test_a_schema_that_would_take_minutes_to_compile_is_refused():
    assert flaw_in({"enum": ["v"] * 10_000}) is None
    assert "10001 values in lists" in str(flaw_in({"enum": ["v"] * 10_001}))
    parts = [{"type": "string", "maxLength": n} for n in range(2500)]
    assert flaw_in({"anyOf": parts[1:]}) is None
    assert "2501 parts" in str(flaw_in({"anyOf": parts}))
    for sound in (
        {"$ref": "#/$defs/A", "$defs": {"A": {"type": "null"}}},
        {"items": {"$ref": "#"}},
    ):
        assert flaw_in(sound) is None


FORM = ResponseFormat.model_validate(
    {"type": "json_schema", "json_schema": {"name": "s", "schema": {"enum": ["said"]}}}
)
CALLS = {
    "hermes": '<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>',
    "llama3": '{"name": "f", "parameters": {"a": 1}}; {"name": "f", "parameters": {"a": 1}}',
    "mistral": '[TOOL_CALLS][{"name": "f", "arguments": {"a": 1}}]',
}
ONE = Tool.model_validate(
    tool("f", {"type": "object", "properties": {"a": {"enum": [1]}}, "required": ["a"],
               "additionalProperties": False})
)  # fmt: skip


@pytest.mark.parametrize("family", CALLS)
@pytest.mark.parametrize("thinks", [None, "may", "does"])
def test_an_answer_calls_or_says_what_its_schema_allows(llm, family, thinks):
    turn = Turn(family, True, names={"f"}, thinks=bool(thinks), is_thinking=thinks == "does")
    form = form_of([ONE], FORM, turn)
    before = {None: [""], "may": ["", "<think>so</think>\n\n"], "does": ["so</think>"]}[thinks]
    for start in before:
        for said in ('"said"', CALLS[family]):
            assert accepts(llm, form, start + said), start + said
        assert not accepts(llm, form, start + '"other"')
        assert not accepts(llm, form, start + CALLS[family].replace("1", "2"))


def accepts(llm, form, text: str) -> bool:
    """Say whether the text is an answer of the form, by the engine's own matcher."""
    matcher = llm._grammars.constraint(form)._matcher
    ids = llm.prompts.tokenizer(text, add_special_tokens=False).input_ids
    return matcher.try_consume_tokens(ids) == len(ids) and matcher.is_accepting()


def test_forms_beside_tools_through_the_server(web):
    body = {
        "messages": HELLO,
        "tools": [ONE.model_dump(exclude_none=True)],
        "response_format": FORM.model_dump(by_alias=True, exclude_none=True),
        "parallel_tool_calls": False,
        "max_tokens": 200,
    }
    for seed in range(6):
        found = web.post("/v1/chat/completions", json={**body, "seed": seed}).json()["choices"][0]
        if calls := found["message"].get("tool_calls"):
            assert json.loads(calls[0]["function"]["arguments"]) == {"a": 1}
        else:
            assert found["message"]["content"] == '"said"'
    silent = {**body, "tool_choice": "none"}
    found = web.post("/v1/chat/completions", json=silent).json()["choices"][0]
    assert found["message"]["content"] == '"said"'


REFERRED = {
    "type": "object",
    "properties": {"a": {"$ref": "/$defs/A~1a"}, "b": {"$ref": "#/$defs/A~1a"}},
    "required": ["a"],
    "additionalProperties": False,
    "$defs": {"A/a": {"enum": ["k"]}},
}


def test_a_reference_without_its_sign_leads_where_it_was_meant_to(web):
    body = {"messages": HELLO, "max_tokens": 60, "tool_choice": "required", "temperature": 0}
    found = web.post("/v1/chat/completions", json={**body, "tools": [tool("look", REFERRED)]})
    (call, *_) = found.json()["choices"][0]["message"]["tool_calls"]
    assert json.loads(call["function"]["arguments"])["a"] == "k"
    strict = [tool("look", REFERRED, strict=True)]
    refused = web.post("/v1/chat/completions", json={**body, "tools": strict})
    assert "tools[0].function.parameters (of 'look')" in refused.json()["error"]["message"]


def test_references_that_lead_nowhere_stay():
    listed = {"allOf": [{"$ref": "/allOf/1"}, {"$ref": "/allOf/2"}, {"$ref": "/no"}]}
    first, *others = referring(listed)["allOf"]
    assert first == {"$ref": "#/allOf/1"}
    assert others == [{"$ref": "#/allOf/2"}, {"$ref": "/no"}]
    same = {"properties": {"$ref": {"$ref": "http://elsewhere/x.json"}}, "enum": ["/no"]}
    assert referring(same) == same
