"""The form of an answer: what it says, its calls, or either, as one grammar."""

import json
from collections.abc import Callable, Mapping, Sequence

from treadle.deploy.http.asked import ResponseFormat, Tool
from treadle.deploy.http.errors import ApiError
from treadle.deploy.serve.chat.answer import Turn
from treadle.deploy.serve.chat.calls import FORMATS
from treadle.deploy.serve.chat.pieces import Plain
from treadle.deploy.serve.chat.thoughts import BEGIN, END
from treadle.deploy.serve.references import flaw_in, referring
from treadle.runtime.structured import FormError, StructuredOutputs

__all__ = ["blame", "form_of", "schemas_of"]

_ANY: Plain = {"type": "object"}
_BLANKS = r"[ \n]?"
"""Between the parts of JSON, as everywhere in answers."""
_LENIENT = {"lenient": True, "coerce_one_of": True}
"""For schemas of tools that do not ask to be strict: keywords that no grammar can keep (such as
uniqueItems) are left to whoever runs the tool."""


def form_of(
    tools: Sequence[Tool], form: ResponseFormat | None, turn: Turn
) -> StructuredOutputs | None:
    """Return the form that an answer must keep, None where it is free.

    Each schema is a root of its own in the grammar, so that its references mean what they meant
    where the client wrote them.
    """
    schema = _schema_of(form)
    if turn.is_forced:
        rules = _forced(tools, turn)
    elif schema is None:
        return None
    elif turn.reads_calls:
        rules = _either(tools, schema, turn)
    elif not turn.thinks:
        _require_sound(schema)
        return StructuredOutputs(json=schema)
    else:
        rules = [f"body: %json {_embedded(schema)}"]
    return StructuredOutputs(grammar="\n".join([_start(turn), *rules]))


def _schema_of(form: ResponseFormat | None) -> Plain | None:
    if form is None or form.type == "text":
        return None
    given = form.json_schema.schema_ if form.json_schema is not None else None
    return _ANY if given is None else given


def _start(turn: Turn) -> str:
    """Return the first rule: the body, behind thoughts where the model may have some."""
    if not turn.thinks:
        return "start: body"
    inside = f"thoughts[suffix={json.dumps(END)}]: /(.|\\n)*/\nblanks: /[ \\n]*/"
    if turn.is_thinking:
        return f"start: thoughts blanks body\n{inside}"
    return f"start: ({json.dumps(BEGIN)} thoughts blanks)? body\n{inside}"


def _forced(tools: Sequence[Tool], turn: Turn) -> list[str]:
    """Return the rules of an answer that calls: a list of calls, or one tool's arguments."""
    if turn.only is not None:
        (tool,) = (tool for tool in tools if tool.function.name == turn.only)
        return [f"body: %json {_embedded(*_arguments(tool))}"]
    more = "" if turn.is_single else ' (", " call)*'
    return [f'body: "[" call{more} "]"', *_calls(tools, "arguments")]


def _either(tools: Sequence[Tool], schema: Plain, turn: Turn) -> list[str]:
    """Return the rules of an answer that either calls, as its family writes it, or says JSON."""
    family = FORMATS[turn.tool_format]
    begin, end = json.dumps(family.begin), json.dumps(family.end)
    key = "parameters" if family.is_bare else "arguments"
    more, calls, listed = "+", ' ("; " call)*', ' (", " call)*'
    if turn.is_single:
        more = calls = listed = ""
    bodies = {
        "hermes": f'({begin} "\\n" call "\\n" {end} "\\n"?){more}',
        "llama3": f"{begin}? call{calls}",
        "mistral": f'{begin} "[" call{listed} "]"',
    }
    return [
        f"body: {bodies[turn.tool_format]} | said",
        f"said: %json {_embedded(schema)}",
        *_calls(tools, key),
    ]


def _calls(tools: Sequence[Tool], key: str) -> list[str]:
    """Return the rules of a call: one for each tool, and one for its arguments."""
    names = " | ".join(f"call_{place}" for place in range(len(tools)))
    rules = [f"call: {names}"]
    for place, tool in enumerate(tools):
        head = json.dumps(f'{{"name": {json.dumps(tool.function.name)}, "{key}": ')
        rules += [
            f'call_{place}: {head} arguments_{place} "}}"',
            f"arguments_{place}: %json {_embedded(*_arguments(tool))}",
        ]
    return rules


def _arguments(tool: Tool) -> tuple[Plain, bool]:
    """Return the schema of a tool's arguments, which are an object, and whether it is strict."""
    given = tool.function.parameters
    if not given:
        return {**_ANY, "properties": {}, "additionalProperties": False}, True
    is_strict = tool.function.strict is True
    schema = given if is_strict else referring(given)
    is_open = any(key in schema for key in ("type", "$ref", "anyOf", "allOf", "oneOf"))
    return schema if is_open else {**_ANY, **schema}, is_strict


def _require_sound(schema: Plain) -> None:
    flaw = flaw_in(schema)
    if flaw is not None:
        raise FormError(f"A schema cannot be kept: {flaw}; change what it names.", flaw)


def _embedded(schema: Plain, is_strict: bool = True) -> str:
    _require_sound(schema)
    options = {"whitespace_pattern": _BLANKS, **({} if is_strict else _LENIENT)}
    return json.dumps({**schema, "x-guidance": options})


def schemas_of(
    tools: Mapping[int, Tool], form: ResponseFormat | None, tool_place: str, form_place: str
) -> dict[str, tuple[Plain, bool]]:
    """Return where a client wrote each schema -> the schema, and whether it is kept strictly.

    Args:
        tools: Place in the request -> tool that may be called.
        form: Of what the answer says.
        tool_place: Of a tool's schema, with ``{}`` for the tool's place.
        form_place: Of the form's schema.
    """
    schema = _schema_of(form)
    found = {} if schema is None else {form_place: (schema, True)}
    for number, tool in tools.items():
        where = f"{tool_place.format(number)} (of '{tool.function.name}')"
        found[where] = _arguments(tool)
    return found


def blame(
    check: Callable[[StructuredOutputs], None],
    schemas: Mapping[str, tuple[Plain, bool]],
    form_param: str,
    error: FormError,
) -> ApiError:
    """Return which schema of a request cannot be kept, in terms of what the client sent.

    Args:
        check: Compiles a form; raises FormError where it cannot.
        schemas: Of the request; see `schemas_of`.
        form_param: Parameter in which the form of what is said stands.
        error: Of the whole form.
    """
    for where, (schema, is_strict) in schemas.items():
        try:
            check(StructuredOutputs(grammar=f"start: %json {_embedded(schema, is_strict)}"))
        except FormError as own:
            param = "tools" if where.startswith("tools[") else form_param
            return ApiError(
                400,
                f"The schema at {where} cannot be kept: {own.reason}; change what it names.",
                "invalid_schema",
                param,
            )
    return ApiError(
        400, f"The form of the answer cannot be kept: {error.reason}.", "invalid_schema"
    )
