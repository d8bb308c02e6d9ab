"""A method: its settings plus one equation.

A frozen pydantic model with one abstract function of its axis.
"""

from typing import Any, ClassVar, NamedTuple

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.fields import FieldInfo

__all__ = ["Control", "Method", "Mistake", "Paper", "Standard", "first_mistake"]


class Paper(NamedTuple):
    """Where a method was published."""

    title: str
    year: int
    url: str


class Standard(NamedTuple):
    """A method older than any one paper; `source` says in one line where it comes from."""

    source: str


class Control(NamedTuple):
    """A trivial method that others must beat; `source` says in one line what it controls for."""

    source: str


class Method(BaseModel):
    """Base of every method.

    Its fields are its hyper-parameters, with bounds in the type and help below each field.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, populate_by_name=True
    )

    name: ClassVar[str]
    """The method's key in its family's table."""
    paper: ClassVar[Paper | Standard | Control]
    required_parameters: ClassVar[frozenset[str]] = frozenset()
    """Parameters that its verb can do without, and this method cannot."""

    def settings(self) -> dict[str, Any]:  # Any: JSON values
        """Return the method's name and hyper-parameters as plain JSON values."""
        return {"method": self.name, **self.model_dump(mode="json", by_alias=True)}

    @classmethod
    def fields(cls) -> dict[str, FieldInfo]:
        """Return the settings by the names that users write: "lambda" is the field `lambda_`."""
        return {field.alias or name: field for name, field in cls.model_fields.items()}

    @classmethod
    def summary(cls) -> str:
        """Return the first line of the class's docstring."""
        return (cls.__doc__ or "").strip().splitlines()[0]


class Mistake(NamedTuple):
    """The first thing that pydantic refuses in a method's settings, in plain words."""

    kind: str
    """pydantic's own word for it, such as "missing"."""
    setting: str
    """Empty where the settings contradict each other."""
    place: int | None
    """Which of a setting's several values it is."""
    value: Any  # Any: whatever was given
    expected: str


def first_mistake(error: ValidationError) -> Mistake:
    """Return what to tell a user of `error`."""
    first = error.errors()[0]
    places = [part for part in first["loc"] if isinstance(part, int)]
    setting = ".".join(part for part in first["loc"] if isinstance(part, str))
    said = first["msg"].removeprefix("Value error, ").replace("Input should be", "expected")
    expected = said[:1].lower() + said[1:]
    return Mistake(first["type"], setting, places[0] if places else None, first["input"], expected)
