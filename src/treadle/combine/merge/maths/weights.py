"""Weights of models: one for each, and their sum made one."""

from typing import Annotated

import numpy as np
from pydantic import BeforeValidator, Field

from treadle.combine.merge.base import Floats, as_tuple
from treadle.core.errors import SettingsError

__all__ = ["Fractions", "each", "spread"]


_Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Fractions = Annotated[tuple[_Fraction, ...], BeforeValidator(as_tuple)]
"""One share of 0 to 1 for all models, or one for each."""

_TINY = 1e-8


def spread(values: tuple[float, ...], num_models: int) -> tuple[float, ...]:
    """Return one value for each model, as exact as they were given.

    Raises:
        SettingsError: There are neither one nor `num_models` values.
    """
    if len(values) not in (1, num_models):
        raise SettingsError(
            f"{len(values)} values were given for {num_models} models; give one for all, or one "
            f"for each."
        )
    return values if len(values) == num_models else values * num_models


def each(values: tuple[float, ...], num_models: int, *, normalize: bool = False) -> Floats:
    """Return one weight for each model, float32; with `normalize`, divided by their sum.

    Raises:
        SettingsError: There are neither one nor `num_models` values, or they sum to zero.
    """
    found = np.array(spread(values, num_models), np.float64)
    if normalize:
        total = found.sum()
        if abs(total) < _TINY:
            raise SettingsError(
                f"The weights {[float(value) for value in found]} sum to zero, so they cannot be "
                f"normalised; change them, or set normalize to false."
            )
        found = found / total
    return found.astype(np.float32)
