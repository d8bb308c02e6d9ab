"""Settings as one frozen object, whose fields are keywords in Python, flags and recipe keys."""

from collections.abc import Mapping
from typing import Any, NamedTuple, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from treadle.core.errors import SettingsError
from treadle.core.method import first_mistake
from treadle.core.registry import near

__all__ = ["Settings", "Without", "make_settings"]

S = TypeVar("S", bound="Settings")


class Settings(BaseModel):
    """Base of an object of settings: bounds stand in the types, the help below each field.

    A verb that takes one (``engine: EngineSettings | None = None``) has its fields as flags of its
    own; where none of them is given, the verb's default stands.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class Without(NamedTuple):
    """Beside the type of a verb's parameter: fields that the verb decides and no flag sets."""

    names: frozenset[str]

    @classmethod
    def fields(cls, *names: str) -> "Without":
        """Leave out the fields called `names`."""
        return cls(frozenset(names))


def make_settings(
    kind: type[S],
    values: Mapping[str, Any],  # Any: validated here
    context: Mapping[str, Any] | None = None,  # Any: pydantic's
) -> S:
    """Return the settings with `values`, checked.

    Raises:
        SettingsError: A name is unknown, or a value is refused; the message says what to change.
    """
    known = list(kind.model_fields)
    for name in values:
        if name not in kind.model_fields:
            raise SettingsError(f"There is no setting '{name}'. {near(name, known)}")
    try:
        return kind.model_validate(dict(values), context=context)
    except ValidationError as error:
        said = error.errors()[0].get("ctx", {}).get("error")
        if isinstance(said, SettingsError):  # a validator of ours, which says it best
            raise said from error
        found = first_mistake(error)
        given = f"{found.setting} = {found.value!r} is refused: " if found.setting else ""
        raise SettingsError(f"{given}{found.expected}; change it.") from error
