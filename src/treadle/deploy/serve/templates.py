"""From a conversation to the text that a model was tuned on, tools included."""

import json
from collections.abc import Sequence
from typing import Any

from treadle.deploy.http.asked import Message, TextPart, Tool
from treadle.deploy.http.errors import ApiError
from treadle.deploy.serve.catalogue import ServedModel
from treadle.runtime.prompts import is_broken_template

__all__ = ["conversation"]

Plain = dict[str, Any]
"""What a chat template reads."""

_TOOLS = """You can call these functions:
<tools>
{tools}
</tools>
To call one, answer with an object of its name and arguments between tags, and nothing else:
<tool_call>
{{"name": NAME, "arguments": {{...}}}}
</tool_call>"""
"""For models whose template knows no tools; the form is Hermes'."""


def conversation(
    model: ServedModel, messages: Sequence[Message], tools: Sequence[Tool]
) -> list[int]:
    """Return the tokens of a conversation, up to where the model answers.

    Raises:
        ApiError: The model has no chat template, or it refuses the messages.
    """
    template = model.chat_template
    if not template:
        raise ApiError(
            400,
            f"'{model.name}' has no chat template; use /v1/completions, or a model that was tuned "
            f"to chat.",
            "no_chat_template",
            "model",
        )
    plain = [_plain(message) for message in messages]
    shown = [tool.model_dump(exclude_none=True) for tool in tools]
    if shown and "tools" not in template:
        plain, shown = _with_tools(plain, shown), []
    tokenizer = model.llm.prompts.tokenizer
    try:
        text = tokenizer.apply_chat_template(
            plain, tools=shown or None, add_generation_prompt=True, tokenize=False
        )
    except Exception as error:  # a template raises what it likes
        if is_broken_template(tokenizer):
            raise ApiError(
                500,
                f"The chat template of '{model.name}' is broken, as it fails for any message "
                f"({type(error).__name__}: {error}); whoever serves it shall copy the template of "
                f"the original model into its folder.",
                "chat_template_broken",
                "model",
            ) from error
        raise ApiError(
            400,
            f"The chat template of '{model.name}' refuses the messages ({error}); give the roles "
            f"in the order that the model was tuned on.",
            "template_refused",
            "messages",
        ) from error
    # The template writes the special tokens itself.
    return [int(token) for token in tokenizer(text, add_special_tokens=False).input_ids]


def _plain(message: Message) -> Plain:
    found: Plain = {
        "role": "system" if message.role == "developer" else message.role,
        "content": _text(message.content),
    }
    for name in ("name", "tool_call_id"):
        if (value := getattr(message, name)) is not None:
            found[name] = value
    if message.tool_calls:
        found["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {
                    "name": call.function.name,
                    "arguments": _arguments(call.function.arguments),
                },
            }
            for call in message.tool_calls
        ]
    return found


def _text(content: str | list[TextPart] | None) -> str:
    if isinstance(content, list):
        return "".join(part.text for part in content)
    return content or ""


def _arguments(text: str) -> Any:  # Any: JSON values
    """Return arguments as templates want them: an object."""
    try:
        return json.loads(text)
    except ValueError as error:
        raise ApiError(
            400,
            f"The arguments of an earlier call are no JSON ({error}); send them as they came.",
            "invalid_value",
            "messages",
        ) from error


def _with_tools(messages: list[Plain], tools: list[Plain]) -> list[Plain]:
    """Tell of the tools in the system message, and of earlier calls in the form asked for."""
    text = _TOOLS.format(tools="\n".join(json.dumps(tool) for tool in tools))
    has_system = messages[0]["role"] == "system"
    system = f"{messages[0]['content']}\n\n{text}" if has_system else text
    rest = [_as_text(message) for message in messages[has_system:]]
    return [{"role": "system", "content": system}, *rest]


def _as_text(message: Plain) -> Plain:
    if message["role"] == "tool":
        content = f"<tool_response>\n{message['content']}\n</tool_response>"
        return {"role": "user", "content": content}
    calls = message.get("tool_calls", [])
    texts = [f"<tool_call>\n{json.dumps(call['function'])}\n</tool_call>" for call in calls]
    content = "\n".join(filter(None, [message["content"], *texts]))
    return {"role": message["role"], "content": content}
