"""A conversation, its tools, and the body of /v1/chat/completions."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field
from pydantic_core import PydanticCustomError

from treadle.deploy.http.asked.base import MOST_MESSAGES, AskedPart, Many
from treadle.deploy.http.asked.echoed import EchoedPart
from treadle.deploy.http.asked.generation import AskedGeneration
from treadle.deploy.http.asked.lists import REFUSED

__all__ = [
    "AllowedTools",
    "AskedChat",
    "CalledFunction",
    "Effort",
    "Function",
    "JsonSchema",
    "Message",
    "NamedTool",
    "ResponseFormat",
    "TemplateValues",
    "TextPart",
    "Tool",
    "ToolCall",
    "ToolChoice",
    "unsupported",
]

Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh"]
TemplateValues = dict[str, Any]
"""Names that a chat template reads -> JSON values."""


def unsupported(known: tuple[str, ...], why: str) -> BeforeValidator:
    """Return a check of a `type` that says why another one than `known` cannot be had."""

    def check(given: object) -> object:
        if isinstance(given, str) and given not in known:
            raise PydanticCustomError(
                "unsupported", "{why}; give {known}", {"why": why, "known": " or ".join(known)}
            )
        return given

    return BeforeValidator(check)


_TEXT_ONLY = "it cannot be read, as the models here read text only"
_TEXT_KINDS = ("text", "input_text", "output_text", "refusal")


class TextPart(EchoedPart):
    """A piece of a message; only text is known."""

    essential: ClassVar[tuple[str, ...]] = ("text", "refusal")

    type: Annotated[
        Literal["text", "input_text", "output_text", "refusal"],
        unsupported(_TEXT_KINDS, _TEXT_ONLY),
    ]
    text: str = ""
    refusal: str = ""
    cache_control: Any = None
    """Anthropic's; equal starts share the cache anyway."""
    annotations: list[Any] | None = None
    logprobs: list[Any] | None = None

    @property
    def written(self) -> str:
        """What it says."""
        return self.text or self.refusal


class CalledFunction(EchoedPart):
    """What an earlier answer called."""

    essential: ClassVar[tuple[str, ...]] = ("arguments",)

    name: str
    arguments: str | dict[str, Any] | None = None
    """JSON as it was written, whole or cut off; none where it takes none."""


class ToolCall(EchoedPart):
    """A call in an earlier answer."""

    id: str
    function: CalledFunction
    type: Literal["function"] = "function"
    index: int | None = None


class Message(EchoedPart):
    """One message of a conversation."""

    essential: ClassVar[tuple[str, ...]] = (
        "content",
        "tool_calls",
        "refusal",
        "reasoning_content",
        "reasoning",
    )

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | Many[TextPart] | None = None
    name: str | None = None
    tool_calls: Many[ToolCall] | None = None
    tool_call_id: str | None = None
    reasoning_content: str | None = None
    """What the assistant thought before it answered."""
    reasoning: str | None = None
    """The same under another name."""
    refusal: str | None = None
    annotations: list[Any] | None = None
    cache_control: Any = None
    """Anthropic's; equal starts share the cache anyway."""
    audio: None = None
    function_call: None = None

    @classmethod
    def is_echo(cls, given: Mapping[str, Any]) -> bool:  # Any: JSON values
        """Return whether `given` came from an answer, or is what a client made of a result."""
        return given.get("role") in ("assistant", "tool") and super().is_echo(given)

    @property
    def text(self) -> str:
        """What it says; a refusal where it says nothing else."""
        if isinstance(self.content, list):
            return "".join(part.written for part in self.content)
        return self.content or self.refusal or ""

    @property
    def thoughts(self) -> str:
        """What was thought before."""
        return self.reasoning_content or self.reasoning or ""


class Function(AskedPart):
    """What a tool does, for the model, and the JSON schema of its arguments."""

    name: str = Field(pattern=r"^[A-Za-z0-9_.-]{1,128}$")
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(AskedPart):
    """A function that the model may call."""

    type: Annotated[
        Literal["function"],
        unsupported(("function",), "nothing here runs such a tool, and the models call functions"),
    ]
    function: Function
    cache_control: Any = None
    """Anthropic's; equal starts share the cache anyway."""


class _Name(AskedPart):
    name: str


class NamedTool(AskedPart):
    """The function that the model must call."""

    type: Literal["function"]
    function: _Name

    @property
    def name(self) -> str:
        """Of the function."""
        return self.function.name


class _Allowed(AskedPart):
    mode: Literal["auto", "required"]
    tools: Many[NamedTool] = Field(min_length=1)


class AllowedTools(AskedPart):
    """The functions that the model may, or must, choose from; it sees no others."""

    type: Literal["allowed_tools"]
    allowed_tools: _Allowed


class JsonSchema(AskedPart):
    """A schema with a name."""

    name: str
    description: str | None = None
    schema_: dict[str, Any] | None = Field(default=None, alias="schema")
    strict: bool | None = None


class ResponseFormat(AskedPart):
    """The form of an answer as OpenAI writes it."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


ToolChoice = Literal["none", "auto", "required"] | NamedTool | AllowedTools


class AskedChat(AskedGeneration):
    """Body of /v1/chat/completions."""

    refused: ClassVar[dict[str, str]] = {
        **REFUSED,
        "chat_template": "a template runs on the server; whoever serves the model chooses it",
    }

    messages: Many[Message] = Field(min_length=1, max_length=MOST_MESSAGES)
    """The conversation so far."""
    max_completion_tokens: int | None = Field(default=None, ge=1)
    """OpenAI's newer name of max_tokens."""
    logprobs: bool | None = None
    """Whether the log-probability of each token is reported."""
    top_logprobs: int | None = Field(default=None, ge=0, le=20)
    """With logprobs: how many of the most probable tokens are reported at each place."""
    tools: Many[Tool] | None = Field(default=None, max_length=128)
    """Functions that the model may call."""
    tool_choice: ToolChoice | None = None
    """auto unless given; required or a name: the answer is kept in the form of a call; or
    allowed_tools."""
    parallel_tool_calls: bool | None = None
    """false: one call at most."""
    response_format: ResponseFormat | None = None
    """text, json_object, or json_schema: what the answer says keeps the schema; calls of tools keep
    theirs."""
    reasoning_effort: Effort | None = None
    """How long a model that thinks may think; none: not at all. Refused where no template knows
    it."""
    chat_template_kwargs: TemplateValues | None = None
    """vLLM's: what the chat template reads beside the messages, such as enable_thinking."""
    add_generation_prompt: bool | None = None
    """vLLM's: whether the template opens an answer; true unless given."""
    continue_final_message: bool | None = None
    """vLLM's: whether the answer goes on with the last message, which is the assistant's."""
