"""From the items of /v1/responses to a conversation, and back to what is kept of it."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from treadle.deploy.http.asked import AskedChat, Message, Tool
from treadle.deploy.http.asked.chat import (
    AllowedTools,
    CalledFunction,
    Function,
    JsonSchema,
    NamedTool,
    ResponseFormat,
    ToolCall,
    ToolChoice,
)
from treadle.deploy.http.asked.responses import (
    AskedResponse,
    CallItem,
    Item,
    MessageItem,
    NamedFunction,
    OutputItem,
    ReasoningItem,
    ReferenceItem,
    TextFormat,
)
from treadle.deploy.http.errors import ApiError

__all__ = ["as_chat", "items_of", "messages_of"]


def items_of(
    asked: AskedResponse, kept: Sequence[Item], known: Callable[[], Mapping[str, Item]]
) -> list[Item]:
    """Return all items of a conversation: those before this request, and its own.

    Args:
        asked: The body.
        kept: The items before it.
        known: Returns id -> item, for references.

    Raises:
        ApiError: An item is named that was not kept.
    """
    if isinstance(asked.input, str):
        return [*kept, MessageItem(role="user", content=asked.input)]
    found: list[Item] = list(kept)
    has_names = any(isinstance(item, ReferenceItem) for item in asked.input)
    names = known() if has_names else {}
    for place, item in enumerate(asked.input):
        if isinstance(item, MessageItem | CallItem | OutputItem | ReasoningItem):
            found.append(item)
        elif item.id not in names:
            raise ApiError(
                400,
                f"input[{place}] names the item '{item.id[:80]}', which is not kept here; send the "
                f"item itself.",
                "item_not_found",
                "input",
            )
        else:
            found.append(names[item.id])
    if not any(_says_something(item) for item in found):
        raise ApiError(400, "The input is empty; give at least one item.", "empty", "input")
    return found


def _says_something(item: Item) -> bool:
    return not isinstance(item, ReasoningItem) or bool(item.text)


def messages_of(items: Sequence[Item], instructions: str | None) -> list[Message]:
    """Return items as messages: thoughts, text and calls of one answer are one message."""
    found: list[dict[str, Any]] = []  # Any: fields of a message
    names: dict[str, str] = {}
    if instructions:
        found.append({"role": "system", "content": instructions})
    for item in items:
        if isinstance(item, MessageItem):
            last = found[-1] if found else {}
            if item.role == "assistant" and last.keys() <= {"role", "reasoning_content"} and last:
                last["content"] = item.content
            else:
                found.append({"role": item.role, "content": item.content})
        elif isinstance(item, CallItem):
            names[item.call_id] = item.name
            called = CalledFunction(name=item.name, arguments=item.arguments)
            call = ToolCall(id=item.call_id, function=called)
            _answer(found).setdefault("tool_calls", []).append(call)
        elif isinstance(item, OutputItem):
            found.append(
                {
                    "role": "tool",
                    "tool_call_id": item.call_id,
                    "content": item.output,
                    "name": names.get(item.call_id),
                }
            )
        elif isinstance(item, ReasoningItem) and item.text:
            found.append({"role": "assistant", "reasoning_content": item.text})
    return [Message(**fields) for fields in found]


def _answer(found: list[dict[str, Any]]) -> dict[str, Any]:  # Any: fields of a message
    """Return the assistant's message that is being put together."""
    if not found or found[-1]["role"] != "assistant":
        found.append({"role": "assistant"})
    return found[-1]


def as_chat(asked: AskedResponse, items: Sequence[Item]) -> AskedChat:
    """Return the same request in the words of chats."""
    tools = [
        Tool(type="function", function=Function(**tool.model_dump(exclude={"type"})))
        for tool in asked.tools or []
    ]
    has_logprobs = "message.output_text.logprobs" in (asked.include or [])
    same = ("temperature", "top_p", "stream", "seed", "stop", "top_k", "min_p", "user", "model")
    more = ("repetition_penalty", "priority", "cache_salt", "chat_template_kwargs")
    return AskedChat(
        **{name: getattr(asked, name) for name in (*same, *more)},
        messages=messages_of(items, asked.instructions),
        max_completion_tokens=asked.max_output_tokens,
        tools=tools or None,
        tool_choice=_choice(asked),
        parallel_tool_calls=asked.parallel_tool_calls,
        response_format=_form(asked.text.format if asked.text else None),
        reasoning_effort=asked.reasoning.effort if asked.reasoning else None,
        logprobs=has_logprobs or None,
        top_logprobs=asked.top_logprobs if has_logprobs else None,
    )


def _choice(asked: AskedResponse) -> ToolChoice | None:
    choice = asked.tool_choice
    if isinstance(choice, NamedFunction):
        return _named(choice)
    if choice is None or isinstance(choice, str):
        return choice
    allowed = {"mode": choice.mode, "tools": [_named(tool) for tool in choice.tools]}
    return AllowedTools.model_validate({"type": "allowed_tools", "allowed_tools": allowed})


def _named(tool: NamedFunction) -> NamedTool:
    return NamedTool.model_validate({"type": "function", "function": {"name": tool.name}})


def _form(given: TextFormat | None) -> ResponseFormat | None:
    if given is None or given.type != "json_schema":
        return None if given is None else ResponseFormat(type=given.type)
    if given.schema_ is None:
        raise ApiError(
            400, "text.format asks for a schema and has none; add it.", "invalid_value", "text"
        )
    schema = JsonSchema(name=given.name or "answer", schema_=given.schema_)
    return ResponseFormat(type="json_schema", json_schema=schema)
