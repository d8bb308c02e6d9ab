"""treadle's own keys at the top of a recipe."""

import math
from collections.abc import Mapping
from typing import Any

from treadle.core.errors import SettingsError

__all__ = [
    "ALLOW_ARCHITECTURES",
    "ALLOW_DIFFERENT",
    "KEEP_ZEROS",
    "OWN_KEYS",
    "REPEAT_SCALE",
    "check_extras",
]

REPEAT_SCALE = "x-repeat-scale"
"""The factor of what repeated layers add to the residual stream."""
ALLOW_ARCHITECTURES = "x-allow-architectures"
"""Merge what has the same tensors, though the configs name different architectures."""
ALLOW_DIFFERENT = "x-allow-different"
"""Keys of config.json that may differ though models compute with them."""
KEEP_ZEROS = "x-keep-zeros"
"""Keep the zeros that all sparse inputs share."""


OWN_KEYS = (REPEAT_SCALE, ALLOW_ARCHITECTURES, ALLOW_DIFFERENT, KEEP_ZEROS)
"""All of them."""


def check_extras(extras: Mapping[str, Any]) -> None:  # Any: YAML values
    """Check the values of a recipe's own keys; `recipe.kinds` tells of others.

    Raises:
        SettingsError: One is of the wrong type.
    """
    for key, value in extras.items():
        if key in (ALLOW_ARCHITECTURES, KEEP_ZEROS) and not isinstance(value, bool):
            raise SettingsError(f"{key} = {value!r}; write true or false.")
        if key == ALLOW_DIFFERENT and not _are_texts(value):
            raise SettingsError(f"{key} = {value!r}; give a list of keys, such as [rope_theta].")
        if key == REPEAT_SCALE and not _is_number(value):
            raise SettingsError(f"{key} = {value!r}; give a number, 0 for repeats without effect.")


def _are_texts(value: Any) -> bool:  # Any: YAML values
    return isinstance(value, list) and all(isinstance(entry, str) for entry in value)


def _is_number(value: Any) -> bool:  # Any: YAML values
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and math.isfinite(value)
