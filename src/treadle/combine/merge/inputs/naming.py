"""One name for a tensor in all models of a merge, however their folders store the same model.

Folders of one model differ where one was written from the module and the other one as it was
published: in the names' beginnings, in words that transformers changed, and in whether the experts
of a block lie in a tensor each or on each other in two.
"""

from collections import defaultdict
from collections.abc import Iterable
from typing import NamedTuple

from treadle.combine.merge.inputs.towers import parse_name
from treadle.core.checkpoint import CheckpointReader
from treadle.core.errors import CheckpointError, UnsupportedModelError
from treadle.model import facts
from treadle.model.belonging import require_so_many, shapes_of

__all__ = ["Assembly", "Extent", "called_as", "pieced_as"]


class Extent(NamedTuple):
    """A run of elements of a stored tensor."""

    tensor: str
    first: int
    num_elements: int


class Assembly(NamedTuple):
    """A tensor that is made of runs of others, one behind the other."""

    shape: tuple[int, ...]
    parts: tuple[Extent, ...]


def called_as(names: Iterable[str], present: Iterable[str]) -> dict[str, str]:
    """Return for each name what the same tensor is called among those of another model.

    Layers that only one of the models has are called as the layers that both have.
    """
    own = list(names)
    found = facts.names_among(own, present)
    patterns = {}
    for name, called in found.items():
        parsed, theirs = parse_name(name), parse_name(called)
        if name != called and None not in (parsed.layer, theirs.layer):
            patterns[parsed.before, parsed.after] = theirs
    taken = set(found.values())
    for name in own:
        parsed = parse_name(name)
        pattern = patterns.get((parsed.before, parsed.after))
        if pattern is not None and found[name] == name and parsed.layer is not None:
            called = pattern.in_layer(parsed.layer)
            found[name] = name if called in taken else called
    return found


def pieced_as(reader: CheckpointReader, other: CheckpointReader) -> dict[str, Assembly]:
    """Return the experts of a model as another one stores them: nothing where it stores them alike.

    Returns:
        Name of a tensor as the other one would call it -> what it is made of here.
    """
    mine, theirs = _experts(reader), _experts(other)
    if not (mine and theirs) or _are_stacked(mine) == _are_stacked(theirs):
        return {}
    pattern: dict[tuple[str, int | None], facts.Linear] = {}
    for matrix in theirs:
        pattern.setdefault((matrix.role, matrix.expert), matrix)
    shapes = shapes_of(reader)
    made: dict[str, list[tuple[tuple[int, int], facts.Linear]]] = defaultdict(list)
    for matrix in mine:
        like = pattern.get((matrix.role, matrix.expert))
        if like is None:
            return {}  # another number of experts: refused by shape, with both shapes
        name = parse_name(like.tensor).in_layer(matrix.layer)
        made[name].append(((like.place or 0, like.rows.start or 0), matrix))
    return {name: _pieces(found, shapes) for name, found in made.items()}


def _experts(reader: CheckpointReader) -> list[facts.Linear]:
    """Return the matrices of all experts; nothing where facts do not know the model."""
    try:
        config, shapes = facts.base_config(reader.config), shapes_of(reader)
        if not facts.facts_of(config).num_experts:
            return []
        require_so_many(config, reader)  # before anything is listed that a config counts
        layers = range(facts.num_layers(config))
        return [m for n in layers for m in facts.linears(config, n, shapes) if m.expert is not None]
    except (CheckpointError, UnsupportedModelError):
        return []  # what is amiss is said where the tensors are looked up


def _are_stacked(experts: list[facts.Linear]) -> bool:
    return experts[0].place is not None


def _pieces(
    found: list[tuple[tuple[int, int], facts.Linear]], shapes: dict[str, tuple[int, ...]]
) -> Assembly:
    """Return the tensor that matrices make, in the order of their places in it."""
    parts = []
    sizes: dict[int, int] = defaultdict(int)
    for (place, _), matrix in sorted(found, key=lambda pair: pair[0]):
        rows, columns = matrix.whole_shape(shapes)
        own = range(*matrix.rows.indices(rows))
        first = (matrix.place or 0) * rows * columns + own.start * columns
        parts.append(Extent(matrix.tensor, first, len(own) * columns))
        sizes[place] += len(own)
    rows = sizes[0]
    is_stacked = found[0][1].place is None
    return Assembly((len(sizes), rows, columns) if is_stacked else (rows, columns), tuple(parts))
