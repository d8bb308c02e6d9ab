"""What completions and all kinds of chats have in common."""

from typing import Annotated, Any

from pydantic import Field

from treadle.deploy.http.asked.base import (
    AskedBody,
    AskedPart,
    Finite,
    Many,
    Seed,
    Stop,
    Stops,
    Token,
)

__all__ = ["AskedCompletion", "AskedGeneration", "Forms", "StreamOptions"]


MOST_CHOICES = 10_000


class StreamOptions(AskedPart):
    """What a stream holds beside the pieces of the answer."""

    include_usage: bool = False
    include_obfuscation: bool = False


class Forms(AskedPart):
    """The form of an answer; exactly one is set."""

    json_: dict[str, Any] | str | None = Field(default=None, alias="json")
    regex: str | None = None
    choice: Annotated[Many[str], Field(max_length=MOST_CHOICES)] | None = None
    grammar: str | None = None


class AskedGeneration(AskedBody):
    """What completions and chats have in common."""

    max_tokens: int | None = Field(default=None, ge=0)
    """New tokens at most. Completions: 16 unless given; chats: what the context has left."""
    temperature: Finite | None = Field(default=None, ge=0, le=2)
    """0 takes the most probable token; 1 unless given."""
    top_p: Finite | None = Field(default=None, gt=0, le=1)
    """Choose among the most probable tokens that together reach this probability."""
    n: int | None = Field(default=None, ge=1, le=128)
    """Answers to each prompt."""
    stop: Stop | Stops | None = None
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
    stop_token_ids: Annotated[Many[Token], Field(max_length=1024)] | None = None
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

    prompt: str | Many[str] | Many[Token] | Many[Many[Token]]
    """Text, token ids, or a list of either."""
    echo: bool | None = None
    """Whether the prompt is part of the answer; with logprobs, those of its tokens come along."""
    logprobs: int | None = Field(default=None, ge=0, le=20)
    """How many of the most probable tokens are reported at each place."""
    best_of: int | None = Field(default=None, ge=1, le=128)
    """Equal to n, or left out."""
