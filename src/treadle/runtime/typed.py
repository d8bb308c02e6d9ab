"""Settings as Python callers give them: types and ranges checked, numpy's numbers made plain."""

import math
from collections.abc import Iterable, Mapping
from numbers import Integral, Real
from typing import cast

from treadle.core.errors import SettingsError

__all__ = ["flag", "items", "number", "require", "text", "whole"]

_MOST_SHOWN = 80


def require(is_valid: bool, name: str, value: object, expected: str) -> None:
    """Refuse a value that is not what was expected.

    Raises:
        SettingsError: It is not.
    """
    if not is_valid:
        shown = repr(value)
        shown = shown if len(shown) <= _MOST_SHOWN else f"{shown[:_MOST_SHOWN]}..."
        raise SettingsError(f"Found {name}={shown}, expected {expected}; change {name}.")


def whole(name: str, value: object, at_least: int | None = None) -> int:
    """Return a whole number; neither a truth value nor 2.0 is one.

    Raises:
        SettingsError: It is none, or too small.
    """
    is_whole = isinstance(value, Integral) and not isinstance(value, bool)
    require(is_whole, name, value, "a whole number")
    plain = int(cast(Integral, value))
    require(at_least is None or plain >= at_least, name, value, f"at least {at_least}")
    return plain


def number(name: str, value: object, at_least: float | None = None) -> float:
    """Return a finite number as a float.

    Raises:
        SettingsError: It is none, or too small.
    """
    is_number = isinstance(value, Real) and not isinstance(value, bool)
    require(is_number, name, value, "a number")
    plain = float(cast(Real, value))
    require(math.isfinite(plain), name, value, "a finite number")
    require(at_least is None or plain >= at_least, name, value, f"at least {at_least}")
    return plain


def flag(name: str, value: object) -> bool:
    """Return True or False.

    Raises:
        SettingsError: It is neither.
    """
    require(isinstance(value, bool), name, value, "True or False")
    return bool(value)


def text(name: str, value: object) -> str:
    """Return a text.

    Raises:
        SettingsError: It is none.
    """
    require(isinstance(value, str), name, value, "a text")
    return str(value)


def items(name: str, value: object, of: str) -> tuple[object, ...]:
    """Return the items of a list, which a text or a mapping is not.

    Raises:
        SettingsError: It is none.
    """
    is_list = isinstance(value, Iterable) and not isinstance(value, str | bytes | Mapping)
    require(is_list, name, value, f"a list of {of}")
    return tuple(cast(Iterable[object], value))
