"""From a conversation to the text that a model was tuned on, tools included."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from treadle.core.errors import TreadleError
from treadle.deploy.http.asked import Message, Tool
from treadle.deploy.http.errors import ApiError
from treadle.deploy.serve.catalogue import ServedModel
from treadle.deploy.serve.chat.arguments import arguments_of
from treadle.deploy.serve.chat.losses import nothing_is_lost
from treadle.deploy.serve.chat.pieces import Plain
from treadle.deploy.serve.template import Shown, short_id
from treadle.model.tokens.plain_tokenizer import chat_arguments
from treadle.runtime.prompts import is_broken_template

__all__ = ["Talk", "written"]

_TOOLS = """You can call these functions:
<tools>
{tools}
</tools>
To call one, answer with an object of its name and arguments between tags, and nothing else:
<tool_call>
{{"name": NAME, "arguments": {{...}}}}
</tool_call>"""
"""For models whose template knows no tools; the form is Hermes'."""

_CUT = "..."
"""What the user said before a conversation whose start is not there any more."""


class Talk(NamedTuple):
    """A conversation and what else a template reads."""

    messages: Sequence[Message]
    tools: Sequence[Tool] = ()
    values: Mapping[str, Any] = {}
    """Name -> JSON value, beside the messages."""
    opens_answer: bool = True
    """Whether the template opens an answer."""
    continues: bool = False
    """Whether the answer goes on with the last message."""


def written(model: ServedModel, talk: Talk) -> str:
    """Return a conversation as the model reads it, up to where it answers.

    Nothing is lost: what the template does not show (tools, calls and their results, system
    messages) is said in words that it does show.

    Raises:
        ApiError: The model has no chat template, or it refuses the messages.
        CheckpointError: The tokenizer's files are gone or changed since the model was loaded.
    """
    _require_template(model)
    _check_values(model, talk.values)
    first: Exception | None = None
    lossy: str | None = None
    for form in _forms(talk, model.shown(bool(talk.tools))):
        try:
            text = _render(model, talk, form)
        except TreadleError:
            raise
        except Exception as error:  # a template raises what it likes
            first = first or error
            continue
        if nothing_is_lost(talk.messages, text):
            return text
        lossy = lossy or text
    if lossy is not None:
        return lossy
    assert first is not None
    raise _refused(model, first) from first


class _Form(NamedTuple):
    """How a conversation is put before a template."""

    shown: Shown
    splits_calls: bool = False
    """Whether calls beside text are said in words."""
    is_merged: bool = False
    """Whether neighbours of one role are one message, and the user begins."""


def _forms(talk: Talk, shown: Shown) -> Iterator[_Form]:
    """Give the forms to try, the template's own first.

    Some templates show no text beside calls, or but the last system message, or none at all where
    a result comes last; some refuse two calls at once, or two messages of one role behind each
    other, which agents write all the time.
    """
    yield _Form(shown)
    has_calls = any(message.tool_calls or message.role == "tool" for message in talk.messages)
    in_words = shown._replace(calls=False)
    if has_calls and shown.calls:
        yield _Form(shown, splits_calls=True)
        yield _Form(shown._replace(system=False), splits_calls=True)
        yield _Form(in_words)
    yield _Form(in_words._replace(system=False))
    yield _Form(in_words, is_merged=True)
    yield _Form(in_words._replace(system=False, tools=False), is_merged=True)


def _require_template(model: ServedModel) -> None:
    if not model.chat_template:
        raise ApiError(
            400,
            f"'{model.name}' has no chat template; use /v1/completions, or a model that was tuned "
            f"to chat.",
            "no_chat_template",
            "model",
        )


def _check_values(model: ServedModel, values: Mapping[str, Any]) -> None:
    if not values:
        return
    reserved = {*chat_arguments(model.llm.prompts.reader), "messages"}  # they are the server's own
    for name in values:
        if name in reserved:
            raise ApiError(
                400,
                f"chat_template_kwargs sets '{name}', which the server decides; leave it out, or "
                f"use the parameter of the body that is meant for it.",
                "invalid_value",
                "chat_template_kwargs",
            )


def _render(model: ServedModel, talk: Talk, form: _Form) -> str:
    shown = form.shown
    messages = _one_system([_plain(message, form) for message in talk.messages])
    tools = [tool.model_dump(exclude_none=True) for tool in talk.tools]
    if tools and not shown.tools:
        messages, tools = _with_tools(messages, tools), []
    if not shown.calls:
        messages = _with_results(messages)
    if not shown.system:
        messages = _with_system(messages)
    if form.is_merged:
        messages = _merged(messages)
    if shown.takes_parts:
        messages = [_in_parts(message) for message in messages]
    tokenizer = model.llm.prompts.reader
    return str(
        tokenizer.apply_chat_template(
            messages,
            tools=tools or None,
            add_generation_prompt=talk.opens_answer and not talk.continues,
            continue_final_message=talk.continues,
            tokenize=False,
            **talk.values,
        )
    )


def _refused(model: ServedModel, error: Exception) -> ApiError:
    if is_broken_template(model.llm.prompts.tokenizer):
        return ApiError(
            500,
            f"The chat template of '{model.name}' is broken, as it fails for any message "
            f"({type(error).__name__}: {error}); whoever serves it shall copy the template of "
            f"the original model into its folder.",
            "chat_template_broken",
            "model",
        )
    return ApiError(
        400,
        f"The chat template of '{model.name}' refuses the messages ({error}); give the roles "
        f"in the order that the model was tuned on.",
        "template_refused",
        "messages",
    )


def _plain(message: Message, form: _Form) -> Plain:
    """Return a message as templates read it; its calls as text where they do not show them."""
    shown = form.shown
    found: Plain = {
        "role": "system" if message.role == "developer" else message.role,
        "content": message.text,
    }
    if message.name is not None:
        found["name"] = message.name
    if message.tool_call_id is not None:
        given = message.tool_call_id
        found["tool_call_id"] = short_id(given) if shown.short_ids else given
    if message.thoughts:
        found["reasoning_content"] = message.thoughts
    calls = message.tool_calls or []
    if calls and shown.calls and not (form.splits_calls and message.text):
        found["tool_calls"] = [
            {
                "id": short_id(call.id) if shown.short_ids else call.id,
                "type": "function",
                "function": {
                    "name": call.function.name,
                    "arguments": _as_wanted(call.function.arguments, shown),
                },
            }
            for call in calls
        ]
        if not message.text and shown.empty_as_null:
            found["content"] = None
    elif calls:
        found["content"] = "\n".join(filter(None, [message.text, *map(_call_as_text, calls)]))
    return found


def _as_wanted(arguments: Any, shown: Shown) -> Any:  # Any: JSON, or what it says
    found = arguments_of(arguments)
    return json.dumps(found, ensure_ascii=False) if shown.arguments_as_text else found


def _call_as_text(call: Any) -> str:  # Any: a ToolCall
    function = {
        "name": call.function.name,
        "arguments": arguments_of(call.function.arguments),
    }
    return f"<tool_call>\n{json.dumps(function, ensure_ascii=False)}\n</tool_call>"


def _one_system(messages: list[Plain]) -> list[Plain]:
    """Return messages with those of the system at their start as one."""
    count = next((n for n, m in enumerate(messages) if m["role"] != "system"), len(messages))
    if count < 2:
        return messages
    said = "\n\n".join(message["content"] for message in messages[:count])
    return [{**messages[0], "content": said}, *messages[count:]]


def _with_tools(messages: list[Plain], tools: list[Plain]) -> list[Plain]:
    """Tell of the tools in the system message."""
    said = "\n".join(json.dumps(tool, ensure_ascii=False) for tool in tools)
    text = _TOOLS.format(tools=said)
    has_system = messages[0]["role"] == "system"
    system = f"{messages[0]['content']}\n\n{text}" if has_system else text
    return [{"role": "system", "content": system}, *messages[has_system:]]


def _with_results(messages: list[Plain]) -> list[Plain]:
    """Let the user tell of what tools returned; results behind each other are one message."""
    found: list[Plain] = []
    was_result = False
    for message in messages:
        is_result = message["role"] == "tool"
        if is_result:
            text = f"<tool_response>\n{message['content']}\n</tool_response>"
            if was_result:
                found[-1]["content"] += f"\n{text}"
            else:
                found.append({"role": "user", "content": text})
        else:
            found.append(message)
        was_result = is_result
    return found


def _with_system(messages: list[Plain]) -> list[Plain]:
    """Say what system messages say at the start of what the user says next."""
    found: list[Plain] = []
    said: list[str] = []
    for message in messages:
        if message["role"] == "system":
            said.append(message["content"])
            continue
        if said and message["role"] == "user":
            message = {**message, "content": "\n\n".join([*said, message["content"]])}
            said = []
        found.append(message)
    if said:
        found.append({"role": "user", "content": "\n\n".join(said)})
    return found


def _merged(messages: list[Plain]) -> list[Plain]:
    """Return messages with neighbours of one role as one; each is text only."""
    found: list[Plain] = []
    for message in messages:
        if found and found[-1]["role"] == message["role"]:
            said = filter(None, [found[-1]["content"], message["content"]])
            found[-1] = {**found[-1], "content": "\n\n".join(said)}
        else:
            found.append(message)
    at = 1 if found[0]["role"] == "system" else 0
    if found[at:] and found[at]["role"] == "assistant":
        found.insert(at, {"role": "user", "content": _CUT})
    return found


def _in_parts(message: Plain) -> Plain:
    if message["content"] is None:
        return message
    return {**message, "content": [{"type": "text", "text": message["content"]}]}
