"""What all bodies have in common."""

from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from treadle.deploy.http.asked.lists import IGNORED, REFUSED

__all__ = [
    "MOST_MESSAGES",
    "AskedBody",
    "AskedPart",
    "Finite",
    "Many",
    "Seed",
    "Stop",
    "Stops",
    "Token",
]

T = TypeVar("T")
Many = Annotated[list[T], Field(fail_fast=True)]
"""A list of any length: reading it ends at its first mistake, for a million of them would take
everybody's time."""
MOST_MESSAGES = 1 << 14
"""Of a conversation; reading them takes 0.2 s."""
Stop = Annotated[str, Field(max_length=1024)]
Stops = Annotated[Many[Stop], Field(max_length=64)]
"""Texts that end an answer; each is looked for in every piece of it."""
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
    codes: ClassVar[dict[str, str]] = {}
    """Refused parameter -> code of the error, where clients wait for one of its own."""

    model: str | None = None
    """Name of a model, adapter or router, as /v1/models lists them; may be left out where there is
    one router, or no router and one model."""
    user: str | None = None
    """Who asks: without API keys, clients of different names get equal shares."""

    @classmethod
    def says(cls, name: str) -> str:
        """Return what the parameter `name` means, on one line; empty where there is none."""
        field: Any = cls.model_fields.get(name)  # Any: pydantic's, or None
        return " ".join((field.description or "").split()) if field else ""
