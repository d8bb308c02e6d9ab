"""What a step is given: tensors by keyword, in lists and dicts too, beside plain settings."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from treadle.core.errors import SettingsError

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Inputs", "flat_tensors", "nested"]

Inputs = Callable[[], "Mapping[str, Any]"] | Mapping[str, Any]
"""Any: tensors, lists and dicts of them, and what is none (booleans, numbers, None)."""


def flat_tensors(given: Mapping[str, Any]) -> "dict[str, Tensor]":
    """Return the tensors of inputs, those in a list or dict as KEYWORD.PLACE.

    Raises:
        SettingsError: The inputs are no mapping.
    """
    import torch

    if not isinstance(given, Mapping):
        raise SettingsError(
            f"inputs is a {type(given).__name__}, expected tensors by keyword; write "
            f"inputs={{'NAME': tensor}}."
        )
    return {name: value for name, value in _leaves(given, "") if isinstance(value, torch.Tensor)}


def nested(given: Mapping[str, Any], tensors: "Mapping[str, Tensor]") -> dict[str, Any]:
    """Return inputs in the form of `given`, with the tensors of `flat_tensors` in their places."""

    def filled(value: Any, name: str) -> Any:  # Any: inputs
        if isinstance(value, Mapping):
            return {key: filled(one, _inside(name, key)) for key, one in value.items()}
        if type(value) in (list, tuple):
            return type(value)(filled(one, _inside(name, n)) for n, one in enumerate(value))
        return tensors.get(name, value)

    return {key: filled(value, str(key)) for key, value in given.items()}


def _inside(name: str, key: object) -> str:
    return f"{name}.{key}" if name else str(key)


def _leaves(value: Any, name: str) -> list[tuple[str, Any]]:  # Any: inputs
    if isinstance(value, Mapping):
        items: list[tuple[object, Any]] = list(value.items())
    elif type(value) in (list, tuple):
        items = list(enumerate(value))
    else:
        return [(name, value)]
    return [leaf for key, one in items for leaf in _leaves(one, _inside(name, key))]
