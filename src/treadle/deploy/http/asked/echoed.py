"""What an answer held, as clients send it back."""

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any, ClassVar

from pydantic import model_validator

from treadle.deploy.http.asked.base import AskedPart

__all__ = ["EchoedPart"]

_ALIKE = 0.85
"""Names that are as like each other as this are one name, misspelt."""


class EchoedPart(AskedPart):
    """Base of what an answer held, as clients send it back.

    They add names of their own (such as ``parsed`` or ``provider_specific_fields``), which say
    nothing to a model and are passed over; a misspelt name is refused all the same.
    """

    essential: ClassVar[tuple[str, ...]] = ()
    """Names one of which must be there: without, the unknown name may be what was meant."""

    @classmethod
    def is_echo(cls, given: Mapping[str, Any]) -> bool:  # Any: JSON values
        """Return whether `given` came from an answer."""
        return not cls.essential or any(given.get(name) is not None for name in cls.essential)

    @model_validator(mode="before")
    @classmethod
    def _pass_over(cls, given: Any) -> Any:  # Any: JSON values, or such a part
        if not isinstance(given, dict) or not cls.is_echo(given):
            return given
        known = list(cls.model_fields)
        return {
            name: value
            for name, value in given.items()
            if name in known or get_close_matches(name, known, n=1, cutoff=_ALIKE)
        }
