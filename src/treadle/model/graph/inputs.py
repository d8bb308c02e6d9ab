"""What a step is given: tensors by keyword, in lists and dicts too, beside plain settings."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from treadle.core.errors import SettingsError

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["Inputs", "flat_tensors", "nested", "one_text_a_row"]

Inputs = Callable[[], "Mapping[str, Any]"] | Mapping[str, Any]
"""Any: tensors, lists and dicts of them, and what is none (booleans, numbers, None)."""
_CACHED = "max_seq_len_cached"
"""Ends the names under which rotary modules keep the length that their factors are made for."""


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


@contextmanager
def one_text_a_row(module: "nn.Module") -> Iterator[None]:
    """Tell transformers that no row holds several texts, and how long each is.

    It reads both off the positions, which fake tensors do not have: it would build masks that the
    eager step does without, and could not make the factors of dynamic rotary embeddings.
    """
    from transformers import masking_utils, modeling_rope_utils

    rotary = [part for part in module.modules() if _is_dynamic(part)]
    lengths = [{k: v for k, v in vars(part).items() if k.endswith(_CACHED)} for part in rotary]
    reads_positions = masking_utils.find_packed_sequence_indices
    masking_utils.find_packed_sequence_indices = lambda _: None
    torch = modeling_rope_utils.torch
    if rotary:
        modeling_rope_utils.torch = _WithLengths(torch)
    try:
        yield
    finally:
        masking_utils.find_packed_sequence_indices = reads_positions
        modeling_rope_utils.torch = torch
        for part, kept in zip(rotary, lengths, strict=True):
            vars(part).update(kept)


def _is_dynamic(part: Any) -> bool:  # Any: modules of transformers among others
    """Return whether a module makes its rotary factors anew for each length of rows."""
    kind = getattr(part, "rope_type", None)
    kinds = kind.values() if isinstance(kind, dict) else [kind]
    return any(isinstance(one, str) and "dynamic" in one for one in kinds)


class _WithLengths:
    """PyTorch, where the last position is that of a row's last token."""

    def __init__(self, torch: Any) -> None:  # Any: the module
        self._torch = torch

    def __getattr__(self, name: str) -> Any:  # Any: PyTorch's own
        return getattr(self._torch, name)

    def max(self, positions: "Tensor") -> int:
        return int(positions.shape[-1]) - 1
