"""What all bodies have in common, and the lists of what is ignored or refused."""

from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict, Field

__all__ = [
    "IGNORED",
    "MOST_MESSAGES",
    "REFUSED",
    "AskedBody",
    "AskedPart",
    "Finite",
    "Many",
    "Seed",
    "Token",
]

IGNORED = {
    "metadata": "Notes of the client; nothing is stored.",
    "store": "Nothing is stored.",
    "service_tier": "There is one tier.",
    "safety_identifier": "Nobody is told.",
    "prompt_cache_key": "Equal starts of texts share the cache anyway; see cache_salt.",
    "prompt_cache_retention": "The cache keeps what was used last.",
    "prompt_cache_options": "The cache keeps what was used last.",
}
"""Parameters that are accepted and change nothing, and why that is right."""
REFUSED = {
    "audio": "the models here write text only",
    "functions": "it gave way to tools",
    "function_call": "it gave way to tool_choice",
    "modalities": "the models here write text only",
    "prediction": "predicted outputs are not implemented",
    "verbosity": "no model here takes it; say so in the prompt",
    "web_search_options": "nothing here reaches the web",
    "suffix": "the models here were not trained to fill a gap",
    "dimensions": "a model's vectors have one length",
}
"""Parameters of OpenAI's interface that are refused, and why."""

T = TypeVar("T")
Many = Annotated[list[T], Field(fail_fast=True)]
"""A list of any length: reading it ends at its first mistake, for a million of them would take
everybody's time."""
MOST_MESSAGES = 1 << 14
"""Of a conversation; reading them takes 0.2 s."""
Seed = Annotated[int, Field(ge=-(2**63), lt=2**63)]
Token = Annotated[int, Field(ge=0, lt=2**31)]
Finite = Annotated[float, Field(allow_inf_nan=False)]


class AskedPart(BaseModel):
    """Base of what stands inside of a body: types are strict, and unknown names are refused."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        frozen=True,
        populate_by_name=True,
        use_attribute_docstrings=True,
    )


class AskedBody(BaseModel):
    """Base of all bodies: types are strict, and a name that is not listed is refused."""

    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, use_attribute_docstrings=True
    )
    ignored: ClassVar[dict[str, str]] = IGNORED
    """Parameters of this body that change nothing."""
    refused: ClassVar[dict[str, str]] = REFUSED
    """Parameters of this body that cannot be had."""

    model: str | None = None
    """Name of a model or adapter, as /v1/models lists them; may be left out where there is one."""
    user: str | None = None
    """Who asks: without API keys, clients of different names get equal shares."""

    @classmethod
    def says(cls, name: str) -> str:
        """Return what the parameter `name` means, on one line; empty where there is none."""
        field: Any = cls.model_fields.get(name)  # Any: pydantic's, or None
        return " ".join((field.description or "").split()) if field else ""
