"""Rotary factors that follow from how long a text is, kept apart from text to text.

LongRoPE (Phi-3, Phi-4-mini) turns every position of a text by other factors once it is longer than
the model was first trained for. transformers chooses them by the largest position of a *call*: the
texts of a batch choose for each other, and a chunk of a long text forgets that it is one. Here each
text has its *regime*: how many of the model's bounds it is longer than.
"""

import inspect
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

from treadle.core.errors import UnsupportedModelError
from treadle.model.seams import replaced_forward

if TYPE_CHECKING:
    import torch
    from torch import nn

__all__ = ["RotaryFactors", "first_place"]

_ORIGINAL = "original_max_position_embeddings"


class RotaryFactors:
    """The rotary embeddings of a model of transformers whose factors follow from a text's length.

    Which lengths these are is not read from the config but tried: each candidate that the config
    names is one if positions turn otherwise in a text of one token more.

    Args:
        module: A causal LM; its rotary embeddings must be in memory.

    Raises:
        UnsupportedModelError: Its factors change at a length that its config does not name, or in a
            way that cannot be followed.
    """

    bounds: tuple[int, ...]
    """Ascending: texts of more tokens than this turn by other factors."""

    def __init__(self, module: "nn.Module") -> None:
        config: Any = module.config  # Any: of transformers
        text = config.get_text_config()
        longest = int(getattr(text, "max_position_embeddings", 0) or 0)
        named = sorted({n for n in _named(config.to_dict()) if 0 < n < longest})
        rotary = [part for part in module.modules() if _is_rotary(part)]
        if named and not rotary and _has_two_sets(config.to_dict()):
            raise UnsupportedModelError(
                f"The config of {type(module).__name__} has short and long rotary factors, and it "
                f"has no rotary embedding that takes the places of its rows; run this model with "
                f"transformers."
            )
        found = {
            length
            for part in rotary
            if named
            for kind in _kinds(part)
            for length in _changes(part, kind, named, longest)
        }
        self.bounds = tuple(sorted(found))
        self._rotary = rotary if found else []

    def by_text(self, regimes: "torch.Tensor") -> AbstractContextManager[None]:
        """Let every position turn by the factors of its own text, inside the block.

        Args:
            regimes: Of each position of the calls: [seq], or [batch, seq].
        """
        if not self.bounds:
            return nullcontext()
        forwards = [_by_text(part.forward, regimes, self.bounds) for part in self._rotary]
        return replaced_forward(self._rotary, forwards)


def first_place(bounds: Sequence[int], regime: int) -> int:
    """Return the first position that only texts of `regime` (or a later one) have."""
    return bounds[regime - 1] if regime else 0


def _named(value: object) -> list[int]:
    """Return all lengths that a config names as those of a first training."""
    if isinstance(value, dict):
        own = value.get(_ORIGINAL)
        inner = [n for part in value.values() for n in _named(part)]
        return [*([own] if isinstance(own, int) else []), *inner]
    return [n for part in value for n in _named(part)] if isinstance(value, list) else []


def _has_two_sets(value: object) -> bool:
    """Say whether a config has other factors for long texts than for short ones."""
    if isinstance(value, dict):
        if "long_factor" in value and value["long_factor"] != value.get("short_factor"):
            return True
        return any(map(_has_two_sets, value.values()))
    return isinstance(value, list) and any(map(_has_two_sets, value))


def _is_rotary(part: "nn.Module") -> bool:
    names = [*part._buffers, *vars(part)]  # some are None until the first call
    has_frequencies = any(name.endswith("inv_freq") for name in names)
    return has_frequencies and "position_ids" in inspect.signature(part.forward).parameters


def _kinds(part: "nn.Module") -> list[str | None]:
    """Return the kinds of layers that a rotary embedding turns apart; one None for all."""
    kinds: Any = getattr(part, "rope_type", None)
    return list(kinds) if isinstance(kinds, dict) else [None]


def _changes(part: "nn.Module", kind: str | None, named: list[int], longest: int) -> list[int]:
    """Return which of the `named` lengths are bounds.

    Raises:
        UnsupportedModelError: There are bounds between them.
    """
    import torch

    def turned(num_tokens: int) -> "list[torch.Tensor]":
        options = {} if kind is None else {"layer_type": kind}
        values = next(part.buffers(), torch.zeros(1))
        places = torch.tensor([[1, num_tokens - 1]], device=values.device)
        try:
            output = part.forward(values, position_ids=places, **options)
        except (AttributeError, IndexError, RuntimeError, TypeError, ValueError) as error:
            raise UnsupportedModelError(
                f"{type(part).__name__} cannot be asked how it turns texts of {num_tokens} tokens "
                f"({error}), and the config names a length from which on that may change; run this "
                f"model with transformers."
            ) from error
        return [one[..., :1, :] for one in _parts(part, output)]

    def differ(one: int, other: int) -> bool:
        pairs = zip(turned(one), turned(other), strict=True)
        return any(not torch.equal(left, right) for left, right in pairs)

    found = [length for length in named if differ(length, length + 1)]
    edges = [2, *(edge for length in found for edge in (length, length + 1)), longest]
    for first, last in zip(edges[::2], edges[1::2], strict=True):
        if first < last and differ(first, last):
            raise UnsupportedModelError(
                f"{type(part).__name__} turns the positions of texts of {first} and {last} tokens "
                f"by other factors, and the config names no length between where they change; run "
                f"this model with transformers."
            )
    return found


def _parts(part: "nn.Module", output: Any) -> "list[torch.Tensor]":
    """Return the tensors [..., seq, dim] that a rotary embedding gives."""
    import torch

    parts = list(output) if isinstance(output, tuple | list) else [output]
    if not all(isinstance(one, torch.Tensor) for one in parts):
        raise UnsupportedModelError(
            f"{type(part).__name__} gives {type(output).__name__}, expected tensors of angles; run "
            f"this model with transformers."
        )
    return parts


def _by_text(
    forward: Callable[..., Any], regimes: "torch.Tensor", bounds: Sequence[int]
) -> Callable[..., Any]:
    """Return a rotary embedding that turns each position by the factors of its text.

    It is called once for each regime, on the positions of the regime's texts and one behind them
    that is as far as only such texts go: so transformers chooses what it would choose for them.
    """
    import torch

    signature = inspect.signature(forward)

    def turned(*args: Any, **named: Any) -> Any:
        given = signature.bind(*args, **named)
        places: torch.Tensor = given.arguments["position_ids"]
        found: list[torch.Tensor] = []
        for regime in torch.unique(regimes).tolist():
            here = regimes == regime
            own = torch.where(here, places, 0)
            behind = torch.full_like(own[..., :1], first_place(bounds, regime))
            given.arguments["position_ids"] = torch.cat([own, behind], dim=-1)
            output = forward(*given.args, **given.kwargs)
            is_one = isinstance(output, torch.Tensor)
            parts = [one[..., :-1, :] for one in ([output] if is_one else output)]
            found = [
                torch.where(here[..., None], new, old)
                for new, old in zip(parts, found or parts, strict=True)
            ]
        return found[0] if is_one else tuple(found)

    return turned
