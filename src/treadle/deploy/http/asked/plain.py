"""The bodies that ask for no answer: vectors, scores, tokens."""

from typing import Annotated, Literal

from pydantic import Field

from treadle.deploy.http.asked.base import MOST_MESSAGES, AskedBody, Many, Token
from treadle.deploy.http.asked.chat import Message, TemplateValues, Tool

__all__ = ["AskedDetokenize", "AskedEmbedding", "AskedScore", "AskedTokenize"]


class AskedEmbedding(AskedBody):
    """Body of /v1/embeddings."""

    input: str | Many[str] | Many[Token] | Many[Many[Token]]
    """Text, token ids, or a list of either."""
    encoding_format: Literal["float", "base64"] | None = None
    """base64: little-endian float32."""


class AskedScore(AskedBody):
    """Body of /v1/score."""

    text_1: str | Annotated[Many[str], Field(min_length=1)]
    """One text, or as many as text_2 has."""
    text_2: str | Annotated[Many[str], Field(min_length=1)]
    """One text, or several."""
    kind: Literal["cosine", "loglikelihood"] = "cosine"
    """cosine of the texts' vectors, or the log-probability of text_2 behind text_1."""


class AskedTokenize(AskedBody):
    """Body of /tokenize: a prompt, or messages."""

    prompt: str | None = None
    """A text."""
    messages: Many[Message] | None = Field(default=None, min_length=1, max_length=MOST_MESSAGES)
    """A conversation, for the model's chat template."""
    tools: Many[Tool] | None = Field(default=None, max_length=128)
    """With messages: functions that the model may call."""
    chat_template_kwargs: TemplateValues | None = None
    """With messages: what the chat template reads beside them."""
    add_generation_prompt: bool | None = None
    """With messages: whether the template opens an answer; true unless given."""
    continue_final_message: bool | None = None
    """With messages: whether the last one is left open."""
    add_special_tokens: bool | None = None
    """Whether the tokenizer puts its special tokens around a prompt; true unless given."""
    return_token_strs: bool | None = None
    """Whether the tokens come as texts, too."""


class AskedDetokenize(AskedBody):
    """Body of /detokenize."""

    tokens: Many[Token]
    """Token ids."""
