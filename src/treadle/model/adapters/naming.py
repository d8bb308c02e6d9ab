"""Where a tensor of a folder goes in an adapter, in the words of transformers' modules."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from treadle.model import facts
from treadle.model.adapters.adapter import transposed_in

if TYPE_CHECKING:
    from treadle.model.anatomy import Anatomy

__all__ = ["Shelf", "shelves"]


Kind = Literal["linear", "embedding", "whole", "none"]


class Shelf(NamedTuple):
    """Where a tensor goes."""

    module: str
    parameter: str
    kind: Kind
    """Two factors; two factors the other way round; as a whole; there is no place for it."""
    is_transposed: bool = False
    """Whether the weight is stored as [in, out]."""
    is_known: bool = True
    """Whether transformers has a module of this name, as far as it can be asked."""


def shelves(
    config: Mapping[str, Any],  # Any: JSON values
    shapes: Mapping[str, tuple[int, ...]],
) -> dict[str, Shelf]:
    """Return for each tensor of a folder where it goes in an adapter.

    Args:
        config: The content of config.json.
        shapes: Name in the folder -> shape.
    """
    anatomy = _anatomy(config)
    known: frozenset[str] = frozenset() if anatomy is None else anatomy.parameters
    called = facts.names_among(shapes, known) if known else {name: name for name in shapes}
    transposed = transposed_in(config) or frozenset()
    found = {}
    for name, shape in shapes.items():
        module, _, parameter = called[name].rpartition(".")
        is_known = not known or called[name] in known
        own = anatomy.class_of(called[name]) if anatomy is not None and is_known else ""
        is_transposed = facts.own_name(name) in transposed
        found[name] = Shelf(module, parameter, _kind(name, shape, own), is_transposed, is_known)
    return found


def _kind(name: str, shape: tuple[int, ...], own: str) -> Kind:
    """Return how a tensor is kept; `own` is its module's class, where that is known.

    Tables of positions and routers are small, and peft has no factors for modules of other classes.
    """
    if len(shape) < 2:
        return "whole"
    if len(shape) > 2 or not name.endswith(".weight"):
        return "none"
    if name.endswith(facts.EMBEDDINGS):
        return "embedding" if own in ("", "Embedding") else "whole"
    return "linear" if own in ("", "Linear", "Conv1D") else "whole"


def _anatomy(config: Mapping[str, Any]) -> "Anatomy | None":  # Any: JSON values
    """Return what transformers makes of a config; None where it cannot be asked."""
    from treadle.model.anatomy import Anatomy, Unbuilt

    try:
        return Anatomy(facts.whole_config(dict(config)))
    except Unbuilt:
        return None
