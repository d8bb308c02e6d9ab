"""router.json: what a router says of itself."""

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from treadle.model.embed.specs import Features

__all__ = ["RouterRecord", "TrainedOn"]

_Name = Annotated[str, Field(min_length=1)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class TrainedOn(_Part):
    """What a router was made of."""

    questions: Annotated[int, Field(ge=1)]
    """How many, with those that chose among its steps."""
    hash: str
    """Of the questions and scores."""


class RouterRecord(_Part):
    """The content of router.json."""

    version: Literal[1] = 1
    kind: Literal["treadle_router"] = "treadle_router"
    method: str
    settings: dict[str, Any]  # Any: JSON values
    models: Annotated[tuple[_Name, ...], Field(min_length=1)]
    """In the order of the scores."""
    features: Features
    projection: Annotated[int, Field(ge=1)] | None = None
    """Directions that the scorer reads of the embedded texts; None: all, as they are."""
    scorer: dict[str, Any]  # Any: JSON values
    """Its kind, and its settings."""
    best_single: str
    """The model that is best on the questions that the router was made of."""
    worth: dict[str, float] | None = None
    """Of each model on those questions, its mean."""
    cost: dict[str, float] | None = None
    """Of an answer of each model, its mean, where costs were known."""
    latency: dict[str, float] | None = None
    """The same in seconds."""
    trained_on: TrainedOn
    tasks: tuple[str, ...] = ()
    """Whose questions those were, where they said it."""

    @model_validator(mode="after")
    def _check_names(self) -> Self:
        if len(set(self.models)) < len(self.models) or self.best_single not in self.models:
            raise ValueError("models must differ, and best_single be one of them")
        return self
