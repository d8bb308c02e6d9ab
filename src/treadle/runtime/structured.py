"""What form an answer must have: a JSON schema, a regular expression, a choice, a grammar."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from treadle.core.errors import SettingsError
from treadle.core.registry import near

__all__ = ["FormError", "StructuredOutputs"]

_FORMS = ("json", "regex", "choice", "grammar")


class FormError(SettingsError):
    """A form that cannot be compiled."""

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason
        """What is wrong with it, without the form itself."""


@dataclass(frozen=True)
class StructuredOutputs:
    """The form of an answer; exactly one field is set. Names are vLLM's.

    Raises:
        SettingsError: None or several are set, or the one is empty or of another type.
    """

    json: Mapping[str, Any] | str | None = None  # Any: JSON values
    """A JSON schema; a class of pydantic stands for its own. Between its parts an answer may have
    at most one space or line break, so that it cannot go on with blanks for ever."""
    regex: str | None = None
    """A regular expression that the whole answer matches, in Rust's syntax: no look-around and no
    references back."""
    choice: Sequence[str] | None = None
    """One of these texts."""
    grammar: str | None = None
    """A grammar in Lark's syntax, or in llama.cpp's (GBNF, with ``::=``)."""

    def __post_init__(self) -> None:
        """Check the values; choices become a tuple, a class of pydantic its schema."""
        schema_of = getattr(self.json, "model_json_schema", None)
        if isinstance(self.json, type) and schema_of is not None:
            object.__setattr__(self, "json", schema_of())
        found = [name for name in _FORMS if getattr(self, name) is not None]
        if len(found) != 1:
            raise SettingsError(
                f"Found structured_outputs with {' and '.join(found) or 'nothing'}, expected "
                f"exactly one of {', '.join(_FORMS)}; leave the others out."
            )
        if self.json is not None:
            self._check_schema()
        elif self.choice is not None:
            self._check_choice()
        else:
            self._check_text(found[0])

    def _check_schema(self) -> None:
        schema = self.json
        if isinstance(schema, str):
            try:
                schema = json.loads(schema)
            except ValueError as error:
                raise SettingsError(
                    f"structured_outputs.json is no JSON ({error}); give a schema as JSON or as a "
                    f"dict."
                ) from error
        if not isinstance(schema, Mapping):
            raise SettingsError(
                f"Found structured_outputs.json={schema!r}, expected a schema; give an object such "
                f'as {{"type": "object"}}.'
            )
        try:
            json.dumps(dict(schema))
        except (TypeError, ValueError) as error:
            raise SettingsError(
                f"structured_outputs.json holds what JSON cannot express ({error}); give plain "
                f"values."
            ) from error

    def _check_choice(self) -> None:
        choice = self.choice
        is_list = isinstance(choice, Sequence) and not isinstance(choice, str)
        if not is_list or not choice or not all(isinstance(c, str) and c for c in choice or ()):
            raise SettingsError(
                f"Found structured_outputs.choice={choice!r}, expected a list of texts that are "
                f"not empty; give at least one."
            )
        object.__setattr__(self, "choice", tuple(choice or ()))

    def _check_text(self, name: str) -> None:
        value = getattr(self, name)
        if not isinstance(value, str) or not value:
            raise SettingsError(
                f"Found structured_outputs.{name}={value!r}, expected a text that is not empty; "
                f"change it."
            )

    def to_dict(self) -> dict[str, Any]:  # Any: JSON values
        """Return the one field that is set."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "StructuredOutputs":  # Any: JSON values
        """Build from plain values.

        Raises:
            SettingsError: A name is unknown, or a value is refused.
        """
        for name in values:
            if name not in _FORMS:
                raise SettingsError(f"No form '{name}' of an answer. {near(name, list(_FORMS))}")
        return cls(**values)
