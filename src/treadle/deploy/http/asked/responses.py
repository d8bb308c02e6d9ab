"""The body of /v1/responses: what agents send."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag
from pydantic_core import PydanticCustomError

from treadle.deploy.http.asked.base import (
    MOST_MESSAGES,
    AskedBody,
    AskedPart,
    Finite,
    Many,
    Seed,
    Stop,
    Stops,
)
from treadle.deploy.http.asked.chat import Effort, TemplateValues, TextPart, unsupported
from treadle.deploy.http.asked.echoed import EchoedPart
from treadle.deploy.http.asked.lists import IGNORED, REFUSED

__all__ = [
    "AskedResponse",
    "CallItem",
    "FunctionTool",
    "Item",
    "MessageItem",
    "NamedFunction",
    "OutputItem",
    "ReasoningItem",
    "ReferenceItem",
    "TextFormat",
]


class _Item(EchoedPart):
    id: str | None = None
    status: str | None = None


class MessageItem(_Item):
    """A message of a conversation."""

    type: Literal["message"] = "message"
    role: Literal["system", "developer", "user", "assistant"]
    content: str | Many[TextPart]
    phase: str | None = None

    @classmethod
    def is_echo(cls, given: Mapping[str, Any]) -> bool:  # Any: JSON values
        """Return whether `given` came from an answer."""
        return given.get("role") == "assistant"


class CallItem(_Item):
    """A call in an earlier answer."""

    type: Literal["function_call"]
    call_id: str
    name: str
    arguments: str


class OutputItem(_Item):
    """What a function returned."""

    type: Literal["function_call_output"]
    call_id: str
    output: str | Many[TextPart]


class _Thought(EchoedPart):
    type: Literal["reasoning_text", "summary_text", "text"]
    text: str


class ReasoningItem(_Item):
    """What was thought before an earlier answer."""

    essential: ClassVar[tuple[str, ...]] = ("summary", "content", "encrypted_content")
    type: Literal["reasoning"]
    summary: Many[_Thought] = Field(default_factory=list)
    content: Many[_Thought] | None = None
    encrypted_content: str | None = None

    @property
    def text(self) -> str:
        """The thoughts themselves, or else what was said of them."""
        return "".join(part.text for part in self.content or self.summary)


class ReferenceItem(AskedPart):
    """An item of an earlier answer, by its id."""

    type: Literal["item_reference"] | None = None
    id: str


_KINDS = ("message", "function_call", "function_call_output", "reasoning", "item_reference")


def _kind(given: Any) -> str:  # Any: JSON values, or an item
    kind = given.get("type") if isinstance(given, dict) else getattr(given, "type", None)
    if kind is None and isinstance(given, dict) and "role" not in given and "id" in given:
        return "item_reference"
    return kind if isinstance(kind, str) and kind in _KINDS else "message"


def _known(given: object) -> object:
    kind = given.get("type") if isinstance(given, dict) else None
    if isinstance(kind, str) and kind not in _KINDS:
        raise PydanticCustomError(
            "unsupported",
            "nothing here made or reads items of type '{kind}'; leave it out",
            {"kind": kind},
        )
    return given


Item = Annotated[
    Annotated[MessageItem, Tag("message")]
    | Annotated[CallItem, Tag("function_call")]
    | Annotated[OutputItem, Tag("function_call_output")]
    | Annotated[ReasoningItem, Tag("reasoning")]
    | Annotated[ReferenceItem, Tag("item_reference")],
    Discriminator(_kind),
    BeforeValidator(_known),
]
"""A piece of the conversation so far."""

_FUNCTIONS_ONLY = "nothing here runs such a tool, and the models call functions"


class FunctionTool(AskedPart):
    """A function that the model may call."""

    type: Annotated[Literal["function"], unsupported(("function",), _FUNCTIONS_ONLY)]
    name: str = Field(pattern=r"^[A-Za-z0-9_.-]{1,128}$")
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class NamedFunction(AskedPart):
    """The function that the model must call."""

    type: Literal["function"]
    name: str


class AllowedFunctions(AskedPart):
    """The functions that the model may, or must, choose from."""

    type: Literal["allowed_tools"]
    mode: Literal["auto", "required"]
    tools: Many[NamedFunction] = Field(min_length=1)


class TextFormat(AskedPart):
    """The form of what an answer says."""

    type: Literal["text", "json_object", "json_schema"]
    name: str | None = None
    description: str | None = None
    schema_: dict[str, Any] | None = Field(default=None, alias="schema")
    strict: bool | None = None


class _Text(AskedPart):
    format: TextFormat | None = None
    verbosity: Literal["medium"] | None = None
    """Only as it is: no model here takes another."""


class _Reasoning(AskedPart):
    effort: Effort | None = None
    summary: Literal["auto", "concise", "detailed"] | None = None
    """Thoughts come whole; nothing sums them up."""
    generate_summary: Literal["auto", "concise", "detailed"] | None = None


class _StreamOptions(AskedPart):
    include_obfuscation: bool = False


class AskedResponse(AskedBody):
    """Body of /v1/responses."""

    ignored: ClassVar[dict[str, str]] = {
        **{name: why for name, why in IGNORED.items() if name not in ("store", "metadata")},
        "max_tool_calls": "It bounds tools that run on the server; none do.",
    }
    refused: ClassVar[dict[str, str]] = {
        **REFUSED,
        "background": "an answer ends when its client leaves",
        "conversation": "conversations are not kept; use previous_response_id",
        "prompt": "no templates of prompts are kept",
        "n": "a response is one answer",
    }

    input: str | Annotated[Many[Item], Field(max_length=MOST_MESSAGES)]
    """What the user says, or the items of the conversation so far."""
    instructions: str | None = None
    """How the model is to behave; said anew with each response."""
    previous_response_id: str | None = None
    """The response that this one goes on with; it must have been stored."""
    store: bool | None = None
    """Whether the response is kept, in memory, to go on with; true unless given."""
    max_output_tokens: int | None = Field(default=None, ge=1)
    """New tokens at most; what the context has left unless given, and never more than that."""
    temperature: Finite | None = Field(default=None, ge=0, le=2)
    """0 takes the most probable token; 1 unless given."""
    top_p: Finite | None = Field(default=None, gt=0, le=1)
    """Choose among the most probable tokens that together reach this probability."""
    stream: bool | None = None
    """Whether the response comes piece by piece, as server-sent events."""
    stream_options: _StreamOptions | None = None
    """There is nothing to choose."""
    tools: Many[FunctionTool] | None = Field(default=None, max_length=128)
    """Functions that the model may call."""
    tool_choice: Literal["none", "auto", "required"] | NamedFunction | AllowedFunctions | None = (
        None
    )
    """auto unless given; required or a name: the answer is kept in the form of a call; or
    allowed_tools."""
    parallel_tool_calls: bool | None = None
    """false: one call at most."""
    text: _Text | None = None
    """format: text, json_object, or json_schema: what the answer says keeps the schema."""
    reasoning: _Reasoning | None = None
    """effort: how long a model that thinks may think."""
    include: Many[str] | None = None
    """message.output_text.logprobs: the log-probability of each token comes along."""
    top_logprobs: int | None = Field(default=None, ge=0, le=20)
    """With these: how many of the most probable tokens are reported at each place."""
    truncation: Literal["disabled", "auto"] | None = None
    """A conversation that is too long is refused, not cut, with either."""
    metadata: dict[str, str] | None = None
    """Notes of the client; they come back with the response."""
    top_k: int | None = Field(default=None, ge=-1, lt=2**31)
    """vLLM's: choose among the k most probable tokens; 0 or -1: all."""
    min_p: Finite | None = Field(default=None, ge=0, le=1)
    """vLLM's: drop tokens less probable than this fraction of the most probable one."""
    repetition_penalty: Finite | None = Field(default=None, ge=0.01, le=100)
    """vLLM's: above 1, makes tokens that the text has less probable."""
    seed: Seed | None = None
    """vLLM's: same seed and prompt, same answer, whatever runs beside it."""
    stop: Stop | Stops | None = None
    """vLLM's: texts that end an answer; they are not part of it."""
    chat_template_kwargs: TemplateValues | None = None
    """vLLM's: what the chat template reads beside the messages, such as enable_thinking."""
    priority: int | None = Field(default=None, ge=-(2**31), lt=2**31)
    """vLLM's: lower comes first; 0 unless given."""
    cache_salt: str | None = None
    """vLLM's: only requests of one salt share cached text."""
