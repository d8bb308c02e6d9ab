"""The bodies of /v1/messages and /v1/messages/count_tokens: Anthropic's interface."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag
from pydantic_core import PydanticCustomError

from treadle.deploy.http.asked.base import MOST_MESSAGES, AskedBody, AskedPart, Finite, Many
from treadle.deploy.http.asked.chat import unsupported
from treadle.deploy.http.asked.echoed import EchoedPart
from treadle.deploy.http.asked.lists import IGNORED

__all__ = [
    "AskedCount",
    "AskedMessages",
    "Block",
    "ResultBlock",
    "TextBlock",
    "ThinkingBlock",
    "Turning",
    "UseBlock",
]


class _Block(EchoedPart):
    cache_control: Any = None
    """Equal starts share the cache anyway."""


class TextBlock(_Block):
    """Text of a message."""

    type: Literal["text"]
    text: str
    citations: list[Any] | None = None


class UseBlock(_Block):
    """A call in an earlier answer."""

    type: Literal["tool_use"]
    id: str
    name: str
    input: dict[str, Any]
    caller: Any = None


class ThinkingBlock(_Block):
    """What was thought before an earlier answer."""

    essential: ClassVar[tuple[str, ...]] = ("thinking", "data")
    type: Literal["thinking", "redacted_thinking"]
    thinking: str = ""
    signature: str | None = None
    data: str | None = None


_TEXT_KINDS = ("text",)
_KINDS = ("text", "tool_use", "tool_result", "thinking", "redacted_thinking")
_TEXT_ONLY = "it cannot be read, as the models here read text only"


class _ResultText(TextBlock):
    type: Annotated[Literal["text"], unsupported(_TEXT_KINDS, _TEXT_ONLY)]


class ResultBlock(_Block):
    """What a tool returned."""

    essential: ClassVar[tuple[str, ...]] = ("content",)
    type: Literal["tool_result"]
    tool_use_id: str
    content: str | Many[_ResultText] | None = None
    is_error: bool | None = None

    @property
    def text(self) -> str:
        """What it says."""
        if isinstance(self.content, list):
            return "".join(block.text for block in self.content)
        return self.content or ""


def _kind(given: Any) -> str:  # Any: JSON values, or a block
    kind = given.get("type") if isinstance(given, dict) else getattr(given, "type", "")
    return "thinking" if kind == "redacted_thinking" else str(kind)


def _known(given: object) -> object:
    kind = given.get("type") if isinstance(given, dict) else "text"
    if kind not in _KINDS:
        raise PydanticCustomError(
            "unsupported",
            "blocks of type '{kind}' cannot be read, as the models here read text and call "
            "functions only",
            {"kind": str(kind)},
        )
    return given


Block = Annotated[
    Annotated[TextBlock, Tag("text")]
    | Annotated[UseBlock, Tag("tool_use")]
    | Annotated[ResultBlock, Tag("tool_result")]
    | Annotated[ThinkingBlock, Tag("thinking")],
    Discriminator(_kind),
    BeforeValidator(_known),
]
"""A piece of a message."""


class Turning(EchoedPart):
    """One message of a conversation."""

    role: Literal["user", "assistant", "system"]
    content: str | Many[Block]

    @classmethod
    def is_echo(cls, given: Mapping[str, Any]) -> bool:  # Any: JSON values
        """Return whether `given` came from an answer."""
        return given.get("role") == "assistant"


class _CustomTool(AskedPart):
    type: (
        Annotated[
            Literal["custom"],
            unsupported(
                ("custom",), "nothing here runs such a tool, and the models call functions"
            ),
        ]
        | None
    ) = None
    name: str = Field(pattern=r"^[A-Za-z0-9_.-]{1,128}$")
    description: str | None = None
    input_schema: dict[str, Any]
    cache_control: Any = None
    strict: bool | None = None
    eager_input_streaming: bool | None = None
    """Arguments are streamed as they are written anyway."""
    input_examples: list[dict[str, Any]] | None = None
    allowed_callers: Many[str] | None = None
    defer_loading: Literal[False] | None = None


class _Choice(AskedPart):
    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class _User(AskedPart):
    user_id: str | None = None


class _Thinking(AskedPart):
    type: Literal["enabled", "disabled", "adaptive"]
    budget_tokens: int | None = None
    """Not kept: the model thinks as long as it does."""
    display: Literal["summarized", "omitted"] | None = None


class _Format(AskedPart):
    type: Literal["json_schema"]
    schema_: dict[str, Any] = Field(alias="schema")


class _Output(AskedPart):
    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None
    format: _Format | None = None


class AskedCount(AskedBody):
    """Body of /v1/messages/count_tokens."""

    ignored: ClassVar[dict[str, str]] = {
        "service_tier": IGNORED["service_tier"],
        "context_management": "The conversation is taken as it comes.",
        "cache_control": "Equal starts share the cache anyway.",
        "betas": "They are a header of the client's.",
        "inference_geo": "It runs here.",
        "speed": "There is one speed.",
        "user_profile_id": "Nobody is told.",
        "workspace_id": "There is one.",
        "billing_policy": "Nothing is billed.",
        "diagnostics": "usage says what came from the cache.",
    }
    refused: ClassVar[dict[str, str]] = {
        "container": "nothing here runs code",
        "mcp_servers": "the client calls tools; give them as tools",
        "thread": "conversations are not kept; send all of the messages",
    }
    codes: ClassVar[dict[str, str]] = {"thread": "thread_unsupported_request"}

    messages: Many[Turning] = Field(min_length=1, max_length=MOST_MESSAGES)
    """The conversation so far; where the last message is the assistant's, the answer goes on with
    it."""
    system: str | Many[TextBlock] | None = None
    """How the model is to behave."""
    tools: Many[_CustomTool] | None = Field(default=None, max_length=128)
    """Functions that the model may call."""
    tool_choice: _Choice | None = None
    """auto unless given; any or a name: the answer is kept in the form of a call."""
    thinking: _Thinking | None = None
    """enabled, adaptive or disabled: whether a model that can think does; else nothing."""
    output_config: _Output | None = None
    """format: a JSON schema that the answer keeps; effort: of a model that can think."""
    output_format: _Format | None = None
    """The same format under its older name."""


class AskedMessages(AskedCount):
    """Body of /v1/messages."""

    max_tokens: int = Field(ge=1)
    """New tokens at most; what the context has left if that is less."""
    stop_sequences: Many[str] | None = None
    """Texts that end an answer; they are not part of it."""
    stream: bool | None = None
    """Whether the answer comes piece by piece, as server-sent events."""
    temperature: Finite | None = Field(default=None, ge=0, le=2)
    """0 takes the most probable token; 1 unless given."""
    top_p: Finite | None = Field(default=None, gt=0, le=1)
    """Choose among the most probable tokens that together reach this probability."""
    top_k: int | None = Field(default=None, ge=-1, lt=2**31)
    """Choose among the k most probable tokens; 0 or -1: all."""
    metadata: _User | None = None
    """user_id: who asks; without API keys, clients of different names get equal shares."""
