"""Weights of models: one for each, and their sum made one."""

import numpy as np

from treadle.combine.merge.base import Floats
from treadle.core.errors import SettingsError

__all__ = ["each"]

_TINY = 1e-8


def each(values: tuple[float, ...], num_models: int, *, normalize: bool = False) -> Floats:
    """Return one value for each model, float32; with `normalize`, divided by their sum.

    Raises:
        SettingsError: There are neither one nor `num_models` values, or they sum to zero.
    """
    if len(values) not in (1, num_models):
        raise SettingsError(
            f"{len(values)} values were given for {num_models} models; give one for all, or one "
            f"for each."
        )
    found = np.resize(np.array(values, np.float64), num_models)
    if normalize:
        total = found.sum()
        if abs(total) < _TINY:
            raise SettingsError(
                f"The weights {[float(value) for value in found]} sum to zero, so they cannot be "
                f"normalised; change them, or set normalize to false."
            )
        found = found / total
    return found.astype(np.float32)
