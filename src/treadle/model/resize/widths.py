"""Widths: what goes together when a block gets fewer or more neurons or heads.

Matrices that are coupled, what is picked of each tensor, and the config that says the new shapes.
Indices that are picked twice make a model wider: the same functions shrink and grow.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from treadle.core.errors import SettingsError, UnsupportedModelError
from treadle.model import facts
from treadle.model.facts import NONUNIFORM, base_config

if TYPE_CHECKING:
    import torch

    from treadle.model.facts import Linear

__all__ = ["Coupling", "Pick", "couplings", "picked", "picks", "resized_config"]

Config = dict[str, Any]  # Any: JSON values
Shapes = dict[str, tuple[int, ...]]


class Coupling(NamedTuple):
    """Matrices of equal groups: neurons of one MLP, or heads of one attention."""

    outs: tuple["Linear", ...]
    """They produce the groups: rows go (gate, up; q, k, v)."""
    last: "Linear"
    """It consumes them: columns go (down; o)."""
    num_groups: int
    """Neurons, or key-value heads."""


class Pick(NamedTuple):
    """Which indices of one axis of a tensor on disk the new tensor has, in their order."""

    axis: int
    indices: list[int]
    by_place: Mapping[int, list[int]] = MappingProxyType({})
    """Of experts that lie on each other in one tensor: the indices for each of them, all as many;
    `indices` are those of the first."""

    @property
    def size(self) -> int:
        """How many indices the axis has afterwards."""
        return len(self.indices)


def couplings(
    kind: str, matrices: Sequence["Linear"], config: Config, shapes: Shapes
) -> list[Coupling]:
    """Return the couplings of a block: one per MLP or expert for neurons, one for heads.

    Raises:
        UnsupportedModelError: Its heads depend on each other.
    """
    if kind == "heads" and facts.facts_of(config).norms_all_heads:
        raise UnsupportedModelError(
            f"Heads of model_type '{config['model_type']}' are normed together, so that each "
            f"changes when another goes; choose another pattern, such as neurons."
        )
    found = []
    consumer, producers = (
        ("down", {"gate", "up", "fc"}) if kind == "neurons" else ("o", {"q", "k", "v", "qkv"})
    )
    for last in (matrix for matrix in matrices if matrix.role == consumer):
        source = last.input.replace("down_in", "mlp_in").replace("o_in", "attn_in")
        outs = tuple(m for m in matrices if m.role in producers and m.input == source)
        width = last.whole_shape(shapes)[1]
        group = 1
        if kind == "heads":
            group = facts.head_dim(config) * facts.num_heads(config) // facts.num_kv_heads(config)
        found.append(Coupling(outs, last, width // group))
    return found


def _expand(groups: Sequence[int], num_groups: int, size: int, offset: int = 0) -> list[int]:
    width = size // num_groups
    return [offset + group * width + i for group in groups for i in range(width)]


def _rows_of(matrix: "Linear", shapes: Shapes) -> tuple[int, int]:
    """Return the first row and the number of rows of `matrix` in its tensor on disk."""
    size = matrix.whole_shape(shapes)[0]
    start, stop, _ = matrix.rows.indices(size)
    return start, stop - start


def picks(groups: Sequence[tuple[Coupling, Sequence[int]]], shapes: Shapes) -> dict[str, Pick]:
    """Return what the chosen groups of each coupling mean for each tensor on disk, with biases.

    Raises:
        SettingsError: A coupling has no such group, or none is chosen.
    """
    found: dict[str, Pick] = {}
    for coupling, kept in groups:
        if not len(kept) or not 0 <= min(kept) <= max(kept) < coupling.num_groups:
            raise SettingsError(
                f"Found groups {list(kept)!s:.80} before '{coupling.last.tensor}', which has "
                f"{coupling.num_groups}; choose from 0 to {coupling.num_groups - 1}, at least one."
            )
        for matrix in coupling.outs:
            start, size = _rows_of(matrix, shapes)
            rows = _expand(kept, coupling.num_groups, size, start)
            _pick(found, matrix, matrix.out_axis, rows)
            bias = matrix.tensor.removesuffix("weight") + "bias"
            if bias in shapes:
                found[bias] = Pick(0, found[matrix.tensor].indices)
        columns = _expand(kept, coupling.num_groups, coupling.last.whole_shape(shapes)[1])
        _pick(found, coupling.last, coupling.last.in_axis, columns)
    return found


def _pick(found: dict[str, Pick], matrix: "Linear", axis: int, indices: list[int]) -> None:
    """Add what is picked for one matrix to what other parts of its tensor have."""
    before = found.get(matrix.tensor, Pick(axis, []))
    if matrix.place is None:
        found[matrix.tensor] = Pick(axis, before.indices + indices)
        return
    by_place = {**before.by_place}
    by_place[matrix.place] = by_place.get(matrix.place, []) + indices
    found[matrix.tensor] = Pick(axis, next(iter(by_place.values())), by_place)


def resized_config(
    kind: str,
    config: Config,
    kept: Sequence[Sequence[tuple[Coupling, int]]],
    allow_nonuniform: bool,
) -> Config:
    """Return the config of the resized model.

    `kept` gives each block's couplings with how many groups they have now. A model that was
    non-uniform before stays so.

    Raises:
        SettingsError: A coupling would have no group.
        UnsupportedModelError: The architecture's config cannot say these shapes, and
            `allow_nonuniform` is not set.
    """
    if any(count < 1 for block in kept for _, count in block):
        raise SettingsError(f"No {kind} would be left in some block; leave at least one.")
    was_uniform = config.get("model_type") != NONUNIFORM
    whole = config if was_uniform else config["treadle_base"]
    base = base_config(whole)
    widths: dict[str, set[int]] = {}
    for block in kept:
        for coupling, count in block:
            widths.setdefault(_size_key(kind, base, coupling), set()).add(count)
    if not was_uniform:
        return _nonuniform(kind, whole, widths, True)
    architecture = facts.facts_of(base)
    can_say = all(len(sizes) == 1 for sizes in widths.values())
    if kind == "heads":
        can_say = can_say and bool(architecture.head_width)
    if not can_say:
        return _nonuniform(kind, whole, widths, allow_nonuniform)
    changes: Config = {}
    for key, sizes in widths.items():
        (size,) = sizes
        changes[key] = size
        if kind == "heads":
            ratio = facts.num_heads(base) // facts.num_kv_heads(base)
            changes["num_attention_heads"] = size * ratio
            changes[architecture.head_width] = facts.head_dim(base)
    changed = facts.with_text(whole, changes)
    return changed if _is_accepted(changed) else _nonuniform(kind, whole, widths, allow_nonuniform)


def _is_accepted(config: Config) -> bool:
    """Say whether the architecture's config class takes these numbers: some want heads that divide.

    It does so in whatever way it likes, hence the wide net.
    """
    from transformers import AutoConfig

    base = base_config(config)
    fields = {key: value for key, value in base.items() if key != "model_type"}
    try:
        AutoConfig.for_model(base["model_type"], **fields)
    except Exception:
        return False
    return True


def _size_key(kind: str, config: Config, coupling: Coupling) -> str:
    architecture = facts.facts_of(config)
    if kind == "heads":
        return architecture.kv_heads
    keys = architecture.neurons
    if coupling.last.input.startswith("shared"):
        return keys[2]
    return keys[1] if coupling.last.expert is not None and len(keys) > 1 else keys[0]


def _nonuniform(kind: str, config: Config, widths: dict[str, set[int]], allow: bool) -> Config:
    if not allow:
        sizes = {key: sorted(found) for key, found in widths.items()}
        reason = (
            "blocks would differ in width"
            if any(len(found) > 1 for found in widths.values())
            else "its heads follow from the hidden size, or it takes only some numbers of them"
        )
        raise UnsupportedModelError(
            f"The config of model_type '{config['model_type']}' cannot say the shapes that pattern "
            f"{kind} leaves "
            f"({sizes}): {reason}. Use --allocation uniform, or pass --allow-nonuniform for a "
            f"folder that treadle loads "
            f"and foreign loaders refuse."
        )
    return {
        "model_type": NONUNIFORM,
        "architectures": ["TreadleNonuniformModel"],
        "treadle_base": config,
    }


def picked(tensor: "torch.Tensor", pick: Pick | None) -> "torch.Tensor":
    """Return what `pick` takes of `tensor`."""
    import torch

    if pick is None:
        return tensor
    if not pick.by_place:
        return tensor.index_select(pick.axis, torch.tensor(pick.indices))
    parts = [
        tensor[place].index_select(pick.axis - 1, torch.tensor(indices))
        for place, indices in sorted(pick.by_place.items())
    ]
    return torch.stack(parts)
