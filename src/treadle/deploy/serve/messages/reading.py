"""From a body of /v1/messages to the words of chats."""

from collections.abc import Sequence
from typing import Any

from treadle.deploy.http.asked import AskedChat, Message, NamedTool, ResponseFormat, Tool
from treadle.deploy.http.asked.chat import (
    CalledFunction,
    Effort,
    Function,
    JsonSchema,
    ToolCall,
    ToolChoice,
)
from treadle.deploy.http.asked.messages import (
    AskedCount,
    AskedMessages,
    Block,
    ResultBlock,
    TextBlock,
    ThinkingBlock,
    Turning,
    UseBlock,
)
from treadle.deploy.http.errors import ApiError
from treadle.deploy.serve.catalogue import ServedModel

__all__ = ["as_chat", "continues"]

_EFFORTS: dict[str, Effort] = {
    "low": "low",
    "medium": "medium",
    "high": "high",
    "xhigh": "xhigh",
    "max": "xhigh",
}


def as_chat(asked: AskedCount, model: ServedModel | None = None) -> AskedChat:
    """Return the same request in the words of chats.

    Args:
        asked: In Anthropic's words.
        model: Who answers, and what its thoughts are steered by; None leaves that out.

    Raises:
        ApiError: It chooses a tool without saying which.
    """
    tools = [
        Tool(
            type="function",
            function=Function(
                name=tool.name,
                description=tool.description,
                parameters=tool.input_schema,
                strict=tool.strict,
            ),
        )
        for tool in asked.tools or []
    ]
    choice = asked.tool_choice
    return AskedChat(
        model=asked.model,
        messages=_messages(asked),
        tools=tools or None,
        tool_choice=_choice(asked),
        parallel_tool_calls=False if choice and choice.disable_parallel_tool_use else None,
        response_format=_form(asked),
        continue_final_message=continues(asked) or None,
        **({} if model is None else _thinking(asked, model)),
        **_sampling(asked),
    )


def continues(asked: AskedCount) -> bool:
    """Return whether the answer goes on with the assistant's last message."""
    return asked.messages[-1].role == "assistant"


def _sampling(asked: AskedCount) -> dict[str, Any]:  # Any: fields of a chat
    if not isinstance(asked, AskedMessages):
        return {}
    return {
        "max_tokens": asked.max_tokens,
        "stop": asked.stop_sequences or None,
        "stream": asked.stream,
        "temperature": asked.temperature,
        "top_p": asked.top_p,
        "top_k": asked.top_k,
        "user": asked.metadata.user_id if asked.metadata else asked.user,
    }


def _thinking(asked: AskedCount, model: ServedModel) -> dict[str, Any]:  # Any: fields of a chat
    """Return what steers thoughts; nothing for models that have none, as agents always send it."""
    template = model.chat_template
    effort = asked.output_config.effort if asked.output_config else None
    found: dict[str, Any] = {}  # Any: fields of a chat
    if asked.thinking is not None and "enable_thinking" in template:
        is_on = asked.thinking.type != "disabled"
        found["chat_template_kwargs"] = {"enable_thinking": is_on}
    if effort is not None and "reasoning_effort" in template:
        found["reasoning_effort"] = _EFFORTS[effort]
    return found


def _form(asked: AskedCount) -> ResponseFormat | None:
    form = (asked.output_config and asked.output_config.format) or asked.output_format
    if form is None:
        return None
    schema = JsonSchema(name="answer", schema_=form.schema_)
    return ResponseFormat(type="json_schema", json_schema=schema)


def _choice(asked: AskedCount) -> ToolChoice | None:
    choice = asked.tool_choice
    if choice is None:
        return None
    if choice.type == "auto":
        return "auto"
    if choice.type == "none":
        return "none"
    if choice.type == "any":
        return "required"
    if choice.name is None:
        raise ApiError(
            400,
            "Found tool_choice of type 'tool' without a name; add the tool's name, or use type "
            "'any'.",
            "invalid_value",
            "tool_choice",
        )
    return NamedTool.model_validate({"type": "function", "function": {"name": choice.name}})


def _messages(asked: AskedCount) -> list[Message]:
    found: list[Message] = []
    if asked.system:
        given = asked.system
        parts = [given] if isinstance(given, str) else [block.text for block in given]
        found.append(Message(role="system", content="\n\n".join(parts)))
    names: dict[str, str] = {}
    for turning in asked.messages:
        found += _turning(turning, names)
    return found


def _turning(turning: Turning, names: dict[str, str]) -> list[Message]:
    """Return a message of Anthropic's as one, or as several where it has results of tools."""
    if isinstance(turning.content, str):
        return [Message(role=turning.role, content=turning.content)]
    blocks = turning.content
    _require_own(turning, blocks)
    if turning.role == "assistant":
        return [_answer(blocks, names)]
    found = [
        Message(
            role="tool",
            tool_call_id=block.tool_use_id,
            name=names.get(block.tool_use_id),
            content=f"Error: {block.text}" if block.is_error else block.text,
        )
        for block in blocks
        if isinstance(block, ResultBlock)
    ]
    text = _text(blocks)
    if text or not found:
        found.append(Message(role=turning.role, content=text))
    return found


def _require_own(turning: Turning, blocks: Sequence[Block]) -> None:
    """Refuse blocks that the other side writes, which would be lost."""
    others = ResultBlock if turning.role == "assistant" else UseBlock | ThinkingBlock
    for place, block in enumerate(blocks):
        if isinstance(block, others):
            raise ApiError(
                400,
                f"Block {place} of a message of the {turning.role} is of type '{block.type}', "
                f"which the other side writes; move it to a message of its own.",
                "invalid_value",
                "messages",
            )


def _answer(blocks: Sequence[Block], names: dict[str, str]) -> Message:
    calls = []
    for block in blocks:
        if isinstance(block, UseBlock):
            names[block.id] = block.name
            function = CalledFunction(name=block.name, arguments=block.input)
            calls.append(ToolCall(id=block.id, function=function))
    thoughts = [block.thinking for block in blocks if isinstance(block, ThinkingBlock)]
    return Message(
        role="assistant",
        content=_text(blocks),
        reasoning_content="".join(thoughts) or None,
        tool_calls=calls or None,
    )


def _text(blocks: Sequence[Block]) -> str:
    return "".join(block.text for block in blocks if isinstance(block, TextBlock))
