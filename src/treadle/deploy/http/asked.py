"""What a client may send: one model for each body, and the lists of what is ignored or refused."""

from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import from_json

from treadle.core.registry import near
from treadle.deploy.http.errors import ApiError

__all__ = [
    "IGNORED",
    "REFUSED",
    "AskedChat",
    "AskedCompletion",
    "AskedDetokenize",
    "AskedEmbedding",
    "AskedGeneration",
    "AskedScore",
    "AskedTokenize",
    "Message",
    "Tool",
    "parse",
]

IGNORED = {
    "metadata": "Notes of the client; nothing is stored.",
    "store": "Nothing is stored.",
    "service_tier": "There is one tier.",
    "safety_identifier": "Nobody is told.",
    "prompt_cache_key": "Equal starts of texts share the cache anyway; see cache_salt.",
    "prompt_cache_retention": "The cache keeps what was used last.",
}
"""Parameters that are accepted and change nothing, and why that is right."""
REFUSED = {
    "audio": "the models here write text only",
    "functions": "it gave way to tools",
    "function_call": "it gave way to tool_choice",
    "modalities": "the models here write text only",
    "prediction": "predicted outputs are not implemented",
    "reasoning_effort": "no model here takes it; say so in the prompt",
    "verbosity": "no model here takes it; say so in the prompt",
    "web_search_options": "nothing here reaches the web",
    "suffix": "the models here were not trained to fill a gap",
    "dimensions": "a model's vectors have one length",
}
"""Parameters of OpenAI's interface that are refused, and why."""

Seed = Annotated[int, Field(ge=-(2**63), lt=2**63)]
Token = Annotated[int, Field(ge=0, lt=2**31)]
Finite = Annotated[float, Field(allow_inf_nan=False)]


class _Asked(BaseModel):
    """Base of all bodies: types are strict, and a name that is not listed is refused."""

    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, use_attribute_docstrings=True
    )

    model: str | None = None
    """Name of a model or adapter, as /v1/models lists them; may be left out where there is one."""
    user: str | None = None
    """Who asks: without API keys, clients of different names get equal shares."""


class StreamOptions(BaseModel):
    """What a stream holds beside the pieces of the answer."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    include_usage: bool = False
    include_obfuscation: bool = False


class Forms(BaseModel):
    """The form of an answer; exactly one is set."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, populate_by_name=True)

    json_: dict[str, Any] | str | None = Field(default=None, alias="json")
    regex: str | None = None
    choice: list[str] | None = None
    grammar: str | None = None


class AskedGeneration(_Asked):
    """What completions and chats have in common."""

    max_tokens: int | None = Field(default=None, ge=0)
    """New tokens at most. Completions: 16 unless given; chats: what the context has left."""
    temperature: Finite | None = Field(default=None, ge=0, le=2)
    """0 takes the most probable token; 1 unless given."""
    top_p: Finite | None = Field(default=None, gt=0, le=1)
    """Choose among the most probable tokens that together reach this probability."""
    n: int | None = Field(default=None, ge=1, le=128)
    """Answers to each prompt."""
    stop: str | list[str] | None = None
    """Texts that end an answer; they are not part of it."""
    seed: Seed | None = None
    """Same seed and prompt, same answer, whatever runs beside it."""
    stream: bool | None = None
    """Whether the answer comes piece by piece, as server-sent events."""
    stream_options: StreamOptions | None = None
    """include_usage: a last piece counts the tokens."""
    presence_penalty: Finite | None = Field(default=None, ge=-2, le=2)
    """Makes tokens that the answer has less probable."""
    frequency_penalty: Finite | None = Field(default=None, ge=-2, le=2)
    """Makes tokens less probable the more often the answer has them."""
    logit_bias: dict[str, Finite] | None = None
    """Token id -> what is added to its logit, -100 to 100."""
    top_k: int | None = Field(default=None, ge=-1, lt=2**31)
    """vLLM's: choose among the k most probable tokens; 0 or -1: all."""
    min_p: Finite | None = Field(default=None, ge=0, le=1)
    """vLLM's: drop tokens less probable than this fraction of the most probable one."""
    repetition_penalty: Finite | None = Field(default=None, ge=0.01, le=100)
    """vLLM's: above 1, makes tokens that the text has less probable."""
    min_tokens: int | None = Field(default=None, ge=0)
    """vLLM's: new tokens before the answer may end."""
    stop_token_ids: list[Token] | None = None
    """vLLM's: tokens that end an answer."""
    ignore_eos: bool | None = None
    """vLLM's: whether the answer goes on behind the model's end token."""
    skip_special_tokens: bool | None = None
    """vLLM's: whether special tokens are left out of the text; true unless given."""
    include_stop_str_in_output: bool | None = None
    """vLLM's: whether the stop text is part of the answer."""
    structured_outputs: Forms | None = None
    """vLLM's: the form of the answer: json (a schema), regex, choice or grammar."""
    priority: int | None = Field(default=None, ge=-(2**31), lt=2**31)
    """vLLM's: lower comes first; 0 unless given."""
    cache_salt: str | None = None
    """vLLM's: only requests of one salt share cached text."""


class AskedCompletion(AskedGeneration):
    """Body of /v1/completions."""

    prompt: str | list[str] | list[Token] | list[list[Token]]
    """Text, token ids, or a list of either."""
    echo: bool | None = None
    """Whether the prompt is part of the answer; with logprobs, those of its tokens come along."""
    logprobs: int | None = Field(default=None, ge=0, le=20)
    """How many of the most probable tokens are reported at each place."""
    best_of: int | None = Field(default=None, ge=1, le=128)
    """Equal to n, or left out."""


class TextPart(BaseModel):
    """A piece of a message; only text is known."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    type: Literal["text"]
    text: str


class CalledFunction(BaseModel):
    """What an earlier answer called."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    name: str
    arguments: str


class ToolCall(BaseModel):
    """A call in an earlier answer."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    id: str
    function: CalledFunction
    type: Literal["function"] = "function"
    index: int | None = None


class Message(BaseModel):
    """One message of a conversation."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[TextPart] | None = None
    name: str | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None
    refusal: str | None = None
    annotations: list[Any] | None = None
    audio: None = None
    function_call: None = None


class Function(BaseModel):
    """What a tool does, for the model, and the JSON schema of its arguments."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    name: str = Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(BaseModel):
    """A function that the model may call."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    type: Literal["function"]
    function: Function


class _Name(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    name: str


class NamedTool(BaseModel):
    """The function that the model must call."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    type: Literal["function"]
    function: _Name


class JsonSchema(BaseModel):
    """A schema with a name."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, populate_by_name=True)

    name: str
    description: str | None = None
    schema_: dict[str, Any] | None = Field(default=None, alias="schema")
    strict: bool | None = None


class ResponseFormat(BaseModel):
    """The form of an answer as OpenAI writes it."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


class AskedChat(AskedGeneration):
    """Body of /v1/chat/completions."""

    messages: list[Message] = Field(min_length=1)
    """The conversation so far."""
    max_completion_tokens: int | None = Field(default=None, ge=1)
    """OpenAI's newer name of max_tokens."""
    logprobs: bool | None = None
    """Whether the log-probability of each token is reported."""
    top_logprobs: int | None = Field(default=None, ge=0, le=20)
    """With logprobs: how many of the most probable tokens are reported at each place."""
    tools: list[Tool] | None = Field(default=None, max_length=128)
    """Functions that the model may call."""
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    """auto unless given; required or a name: the answer is kept in the form of a call."""
    parallel_tool_calls: bool | None = None
    """false: one call at most."""
    response_format: ResponseFormat | None = None
    """text, json_object, or json_schema: the answer keeps the schema."""


class AskedEmbedding(_Asked):
    """Body of /v1/embeddings."""

    input: str | list[str] | list[Token] | list[list[Token]]
    """Text, token ids, or a list of either."""
    encoding_format: Literal["float", "base64"] | None = None
    """base64: little-endian float32."""


class AskedScore(_Asked):
    """Body of /v1/score."""

    text_1: str | Annotated[list[str], Field(min_length=1)]
    """One text, or as many as text_2 has."""
    text_2: str | Annotated[list[str], Field(min_length=1)]
    """One text, or several."""
    kind: Literal["cosine", "loglikelihood"] = "cosine"
    """cosine of the texts' vectors, or the log-probability of text_2 behind text_1."""


class AskedTokenize(_Asked):
    """Body of /tokenize: a prompt, or messages."""

    prompt: str | None = None
    """A text."""
    messages: list[Message] | None = Field(default=None, min_length=1)
    """A conversation, for the model's chat template."""
    add_special_tokens: bool = True
    """Whether the tokenizer puts its special tokens around a prompt."""


class AskedDetokenize(_Asked):
    """Body of /detokenize."""

    tokens: list[Token]
    """Token ids."""


A = TypeVar("A", bound=_Asked)


def parse(kind: type[A], body: bytes) -> A:
    """Return a body that was checked.

    Raises:
        ApiError: It is no JSON object, or a parameter is unknown, refused or of another type.
    """
    try:
        values = from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise ApiError(
            400, f"The body is no JSON in UTF-8 ({error}); send a JSON object.", "invalid_json"
        ) from error
    if not isinstance(values, dict):
        raise ApiError(
            400,
            f"The body is a JSON {type(values).__name__}, expected an object; send parameters by "
            f"name.",
            "invalid_json",
        )
    for name in list(values):
        if name not in kind.model_fields:
            _pass_over(kind, name, values)
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise _refused(kind, error) from error


def _pass_over(kind: type[_Asked], name: str, values: dict[str, Any]) -> None:
    """Take out a parameter that changes nothing, and refuse any other."""
    is_known = name in REFUSED
    if name in IGNORED or (is_known and values[name] is None):
        del values[name]
        return
    if is_known:
        raise ApiError(
            400,
            f"The parameter '{name}' is not supported: {REFUSED[name]}; leave it out.",
            "unsupported_parameter",
            name,
        )
    hint = near(name, list(kind.model_fields))
    raise ApiError(400, f"Unknown parameter '{name[:80]}'. {hint}", "unknown_parameter", name[:80])


def _refused(kind: type[_Asked], error: ValidationError) -> ApiError:
    """Return the first mistake: what was found, and what was expected where."""
    first = error.errors(include_url=False)[0]
    name = str(first["loc"][0]) if first["loc"] else ""
    if first["type"] == "missing" and len(first["loc"]) == 1:
        return ApiError(400, f"The parameter '{name}' is missing; add it.", "missing", name)
    where = ".".join(str(part) for part in first["loc"])
    found = repr(first["input"])
    text = found if len(found) <= 80 else found[:77] + "..."
    field = kind.model_fields.get(name)
    meaning = " ".join((field.description or "").split()) if field else ""
    return ApiError(
        400,
        f"Found {where} = {text}: {first['msg']}. Expected for '{name}': {meaning} Change it.",
        "invalid_type" if first["type"].endswith("_type") else "invalid_value",
        name,
    )
