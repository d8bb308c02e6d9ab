"""Rotary factors that follow from how long a text is, kept apart from text to text.

LongRoPE (Phi-3, Phi-4-mini) turns every position of a text by other factors once it is longer than
the model was first trained for. transformers chooses them by the largest position of a *call*: the
texts of a batch choose for each other, and a chunk of a long text forgets that it is one. Here each
text has its *regime*: how many of the model's bounds it is longer than.

Dynamic NTK turns a text beyond the first length by factors of just its length, and the module
remembers the longest text that it saw. Here the regime is how many tokens a length is beyond the
first, and the module is as it was loaded before each call. A text that grows keeps what it has:
`generate` turns all of a prompt by the prompt's length, and each later token by its own place.
"""

import inspect
from bisect import bisect_left
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, NamedTuple

from treadle.core.errors import UnsupportedModelError
from treadle.model.facts import context_length
from treadle.model.seams import replaced_forward

if TYPE_CHECKING:
    import torch
    from torch import nn

__all__ = ["RopeLengths", "RotaryFactors"]

_ORIGINAL = "original_max_position_embeddings"
_STATIC = frozenset({"default", "linear", "yarn", "llama3", "proportional", "longrope"})
"""Rope types of transformers that do not ask how long a text is, but at lengths that configs name.
"""


class RopeLengths(NamedTuple):
    """How a model's rotary factors follow from the length of a text."""

    bounds: tuple[int, ...] = ()
    """Ascending: all positions of a text of more tokens than this turn by other factors."""
    dynamic_from: int | None = None
    """Texts of more tokens than this turn by factors of their own length; None: none do."""

    def regime(self, num_tokens: int) -> int:
        """Return the regime of a whole text."""
        if self.dynamic_from is not None:
            return max(0, num_tokens - self.dynamic_from)
        return bisect_left(self.bounds, num_tokens)

    def first_place(self, regime: int) -> int:
        """Return the first position that only texts of `regime` (or a later one) have."""
        if not regime:
            return 0
        if self.dynamic_from is not None:
            return self.dynamic_from + regime - 1
        return self.bounds[regime - 1]

    def within_first(self, num_tokens: int) -> int:
        """Return `num_tokens`, or the length of the longest text of regime 0 where that is less."""
        ends = [*self.bounds[:1], *([] if self.dynamic_from is None else [self.dynamic_from])]
        return min([num_tokens, *ends])


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

    lengths: RopeLengths

    longest: int
    """Tokens that the config promises a text may have; 0 where it does not say."""

    def __init__(self, module: "nn.Module") -> None:
        config: Any = module.config  # Any: of transformers
        described, text = config.to_dict(), config.get_text_config().to_dict()
        longest = int(text.get("max_position_embeddings") or 0)
        named = sorted({n for n in _named(described) if 0 < n < longest})
        rotary = [part for part in module.modules() if _is_rotary(part)]
        is_said = _says_dynamic(described)
        if not rotary and (is_said or (named and _has_two_sets(described))):
            sets = "dynamic" if is_said else "short and long"
            raise UnsupportedModelError(
                f"The config of {type(module).__name__} has {sets} rotary factors, and it "
                f"has no rotary embedding that takes the places of its rows; run this model with "
                f"transformers."
            )
        self._fresh = _Fresh(rotary)
        trial = _Trial(self._fresh, named, longest, is_said)
        self.lengths = _all_of(
            [trial.lengths(part, kind) for part in rotary for kind in _kinds(part)]
        )
        self._rotary = [] if self.lengths == RopeLengths() else rotary
        is_kept = is_said and self.lengths.dynamic_from is None
        self.longest = longest if is_kept else context_length(text) or 0

    @property
    def bounds(self) -> tuple[int, ...]:
        """Ascending: texts of more tokens than this turn by other factors."""
        return self.lengths.bounds

    def reset(self) -> None:
        """Let dynamic rotary embeddings forget the texts that they saw."""
        if self.lengths.dynamic_from is not None:
            self._fresh.restore()

    def by_text(self, regimes: "torch.Tensor") -> AbstractContextManager[None]:
        """Let every position turn by the factors of its own text, inside the block.

        Args:
            regimes: Of each position of the calls: [seq], or [batch, seq].
        """
        if not self._rotary:
            return nullcontext()
        forwards = [_by_text(part.forward, regimes, self) for part in self._rotary]
        return replaced_forward(self._rotary, forwards)


class _Fresh:
    """What rotary embeddings hold before they see a long text."""

    def __init__(self, parts: "list[nn.Module]") -> None:
        for part in parts:
            for kind in _kinds(part):
                if "dynamic" in str(_type_of(part, kind)):
                    _turned(part, kind, 2)  # those of transformers forget by a short one
        self._held = [(part, dict(part._buffers), dict(_own(part))) for part in parts]

    def restore(self) -> None:
        for part, buffers, values in self._held:
            part._buffers.clear()
            part._buffers.update(buffers)
            for name in [name for name, _ in _own(part) if name not in values]:
                delattr(part, name)
            vars(part).update(values)


def _own(part: "nn.Module") -> Iterator[tuple[str, Any]]:  # Any: whatever a module keeps
    """Yield what is set on a module beside what torch and `replaced_forward` set."""
    for name, value in vars(part).items():
        if not name.startswith("_") and name not in ("forward", "training"):
            yield name, value


def _named(value: object) -> list[int]:
    """Return all lengths that a config names as those of a first training."""
    if isinstance(value, dict):
        own = value.get(_ORIGINAL)
        inner = [n for part in value.values() for n in _named(part)]
        return [*([own] if isinstance(own, int) else []), *inner]
    return [n for part in value for n in _named(part)] if isinstance(value, list) else []


def _says_dynamic(value: object) -> bool:
    """Say whether a config names a rope type whose factors follow from each length."""
    if isinstance(value, dict):
        types = [value.get("rope_type"), value.get("type")]
        is_rope = "factor" in value or "rope_type" in value
        # With an alpha (Hunyuan) the type is called dynamic, and its factors are fixed.
        if is_rope and "dynamic" in map(str, types) and not value.get("alpha"):
            return True
        return any(map(_says_dynamic, value.values()))
    return isinstance(value, list) and any(map(_says_dynamic, value))


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


def _type_of(part: "nn.Module", kind: str | None) -> str | None:
    """Return the rope type of a rotary embedding, if it names one."""
    named: Any = getattr(part, "rope_type", None)
    found = named.get(kind) if isinstance(named, dict) else named
    return found if isinstance(found, str) else None


class _Trial:
    """Tries at which lengths rotary embeddings turn otherwise.

    Args:
        fresh: They as they were loaded.
        named: Lengths that the config names as those of a first training.
        longest: Its max_position_embeddings.
        is_said: Whether it says that factors follow from every length.
    """

    def __init__(self, fresh: _Fresh, named: list[int], longest: int, is_said: bool) -> None:
        self._fresh, self._named, self._longest, self._is_said = fresh, named, longest, is_said

    def lengths(self, part: "nn.Module", kind: str | None) -> RopeLengths:
        """Return how the factors of a kind of layers follow from the length.

        Raises:
            UnsupportedModelError: They cannot be followed.
        """
        is_tried = _type_of(part, kind) not in _STATIC and self._longest > 2
        if is_tried and self._may_be_asked(part, kind):
            for first in (*self._named, self._longest):
                if self._is_dynamic_from(first, part, kind):
                    return RopeLengths((), first)
            return RopeLengths(tuple(_changes(part, kind, self._named, self._longest)))
        if not self._named:
            return RopeLengths()
        return RopeLengths(tuple(_changes(part, kind, self._named, self._longest)))

    def _may_be_asked(self, part: "nn.Module", kind: str | None) -> bool:
        """Say whether it answers; one that does not need not, where no config speaks of lengths."""
        try:
            self._ask(part, kind, self._longest)
        except UnsupportedModelError:
            own = _type_of(part, kind)  # where it says so, the config speaks of another one
            if "dynamic" in own if own else self._is_said:
                raise
            return False
        return True

    def _ask(self, part: "nn.Module", kind: str | None, num_tokens: int) -> "list[torch.Tensor]":
        self._fresh.restore()
        found = [one.clone() for one in _turned(part, kind, num_tokens)]
        self._fresh.restore()
        return found

    def _is_dynamic_from(self, first: int, part: "nn.Module", kind: str | None) -> bool:
        asked = (2, first, 2 * first, 3 * first)
        short, most, longer, longest = (self._ask(part, kind, length) for length in asked)
        if _differ(short, most) or not (_differ(most, longer) and _differ(longer, longest)):
            return False
        again = [(short, 2), (longer, 2 * first)]
        if any(_differ(before, self._ask(part, kind, length)) for before, length in again):
            raise UnsupportedModelError(
                f"{type(part).__name__} turns shorter texts otherwise after one of {3 * first} "
                f"tokens, and what it remembers is not found; run this model with transformers."
            )
        return True


def _all_of(found: list[RopeLengths]) -> RopeLengths:
    """Return what holds for a model whose rotary embeddings follow the length in these ways.

    Raises:
        UnsupportedModelError: One text would have more than one regime.
    """
    bounds = tuple(sorted({length for own in found for length in own.bounds}))
    firsts = sorted({own.dynamic_from for own in found if own.dynamic_from is not None})
    if len(firsts) > 1 or (firsts and bounds):
        raise UnsupportedModelError(
            f"Layers turn by dynamic factors beyond {firsts} tokens and by a second set beyond "
            f"{list(bounds)}, expected one such length for all layers; run this model with "
            f"transformers."
        )
    return RopeLengths(bounds, firsts[0] if firsts else None)


def _turned(part: "nn.Module", kind: str | None, num_tokens: int) -> "list[torch.Tensor]":
    """Return how a rotary embedding turns place 1 of a text of `num_tokens`.

    Raises:
        UnsupportedModelError: It cannot be asked.
    """
    import torch

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


def _differ(some: "list[torch.Tensor]", others: "list[torch.Tensor]") -> bool:
    import torch

    pairs = zip(some, others, strict=True)
    return any(not torch.equal(left, right) for left, right in pairs)


def _changes(part: "nn.Module", kind: str | None, named: list[int], longest: int) -> list[int]:
    """Return which of the `named` lengths are bounds.

    Raises:
        UnsupportedModelError: There are bounds between them.
    """

    def differ(one: int, other: int) -> bool:
        return _differ(_turned(part, kind, one), _turned(part, kind, other))

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
    forward: Callable[..., Any], regimes: "torch.Tensor", factors: RotaryFactors
) -> Callable[..., Any]:
    """Return a rotary embedding that turns each position by the factors of its text.

    It is called once for each regime, on the positions of the regime's texts and one behind them
    that is as far as only such texts go: so transformers chooses what it would choose for them.
    What it remembers of calls before, or of other regimes, it forgets.
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
            behind = torch.full_like(own[..., :1], factors.lengths.first_place(regime))
            given.arguments["position_ids"] = torch.cat([own, behind], dim=-1)
            factors.reset()
            output = forward(*given.args, **given.kwargs)
            is_one = isinstance(output, torch.Tensor)
            parts = [one[..., :-1, :] for one in ([output] if is_one else output)]
            found = [
                torch.where(here[..., None], new, old)
                for new, old in zip(parts, found or parts, strict=True)
            ]
        return found[0] if is_one else tuple(found)

    return turned
