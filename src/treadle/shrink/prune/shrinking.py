"""Removing whole neurons and heads.

Units that go together, the cuts they make in tensors, and the config that says so.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from treadle.core import keep
from treadle.core.errors import SettingsError, UnsupportedModelError
from treadle.core.shapes import Float, Tensor
from treadle.model import facts
from treadle.model.load import NONUNIFORM, base_config
from treadle.shrink.prune.patterns import Pattern

if TYPE_CHECKING:
    import torch

    from treadle.model.facts import Linear

__all__ = [
    "Cut",
    "Unit",
    "cut_tensor",
    "cuts",
    "group_scores",
    "num_kept",
    "shrunk_config",
    "touched",
    "units",
]

Config = dict[str, Any]  # Any: JSON values
Shapes = dict[str, tuple[int, ...]]
_EXPERT_MULTIPLE = 8


class Unit(NamedTuple):
    """Matrices that lose the same groups: neurons of one MLP, or heads of one attention."""

    outs: tuple["Linear", ...]
    """They produce the groups: rows go (gate, up; q, k, v)."""
    last: "Linear"
    """It consumes them: columns go (down; o)."""
    num_groups: int
    """Neurons, or key-value heads."""


class Cut(NamedTuple):
    """Which indices of one axis of a tensor on disk stay."""

    axis: int
    kept: list[int]


def _in_size(matrix: "Linear", shapes: Shapes) -> int:
    return shapes[matrix.tensor][0 if matrix.transposed else 1]


def units(kind: str, matrices: Sequence["Linear"], config: Config, shapes: Shapes) -> list[Unit]:
    """Return the units of one block: one per MLP or expert for neurons, one for heads."""
    found = []
    consumer, producers = (
        ("down", {"gate", "up", "fc"}) if kind == "neurons" else ("o", {"q", "k", "v", "qkv"})
    )
    for last in (matrix for matrix in matrices if matrix.role == consumer):
        source = last.input.replace("down_in", "mlp_in").replace("o_in", "attn_in")
        outs = tuple(m for m in matrices if m.role in producers and m.input == source)
        width = _in_size(last, shapes)
        group = 1
        if kind == "heads":
            group = facts.head_dim(config) * facts.num_heads(config) // facts.num_kv_heads(config)
        found.append(Unit(outs, last, width // group))
    return found


def num_kept(unit: Unit, sparsity: float) -> int:
    """Return how many groups of `unit` stay.

    Experts keep a multiple of 8 neurons (rounded up): grouped matrix products of 16-bit weights
    refuse other widths.

    Raises:
        SettingsError: None would.
    """
    kept = unit.num_groups - keep.num_pruned(unit.num_groups, sparsity)
    if kept == 0:
        raise SettingsError(
            f"sparsity {sparsity} would remove all {unit.num_groups} groups before "
            f"'{unit.last.tensor}'; lower it."
        )
    if unit.last.expert is not None:
        kept = min(unit.num_groups, -(-kept // _EXPERT_MULTIPLE) * _EXPERT_MULTIPLE)
    return kept


def group_scores(
    unit: Unit, scores: dict[str, Float[Tensor, "_out _in"]]
) -> Float[Tensor, "groups"]:
    """Return each group's worth: the sum of the scores of all weights that go with it."""
    total = scores[unit.last.name].sum(dim=0).view(unit.num_groups, -1).sum(dim=1)
    for matrix in unit.outs:
        total = total + scores[matrix.name].sum(dim=1).view(unit.num_groups, -1).sum(dim=1)
    return total


def _expand(groups: Sequence[int], num_groups: int, size: int, offset: int = 0) -> list[int]:
    width = size // num_groups
    return [offset + group * width + i for group in groups for i in range(width)]


def _rows_of(matrix: "Linear", shapes: Shapes) -> tuple[int, int]:
    """Return the first row and the number of rows of `matrix` in its tensor on disk."""
    size = shapes[matrix.tensor][1 if matrix.transposed else 0]
    start, stop, _ = matrix.rows.indices(size)
    return start, stop - start


def touched(
    matrices: Sequence["Linear"], pattern: Pattern, shapes: dict[str, tuple[int, ...]]
) -> list[str]:
    """Return the names on disk that change with `matrices`: theirs, and biases where rows go."""
    names = list(dict.fromkeys(matrix.tensor for matrix in matrices))
    if pattern.is_structured:
        biases = [name.removesuffix("weight") + "bias" for name in names]
        names += [name for name in biases if name in shapes]
    return names


def cuts(units_and_kept: Sequence[tuple[Unit, Sequence[int]]], shapes: Shapes) -> dict[str, Cut]:
    """Return what the kept groups of each unit leave of each tensor on disk, biases included."""
    found: dict[str, Cut] = {}
    for unit, kept in units_and_kept:
        for matrix in unit.outs:
            start, size = _rows_of(matrix, shapes)
            rows = _expand(kept, unit.num_groups, size, start)
            before = found.get(matrix.tensor)
            rows = (before.kept if before else []) + rows
            found[matrix.tensor] = Cut(1 if matrix.transposed else 0, rows)
            bias = matrix.tensor.removesuffix("weight") + "bias"
            if bias in shapes:
                found[bias] = Cut(0, rows)
        columns = _expand(kept, unit.num_groups, _in_size(unit.last, shapes))
        found[unit.last.tensor] = Cut(0 if unit.last.transposed else 1, columns)
    return found


def shrunk_config(
    kind: str, config: Config, kept: Sequence[Sequence[tuple[Unit, int]]], allow_nonuniform: bool
) -> Config:
    """Return the config of the shrunken model.

    `kept` gives each block's units with how many groups stay. A model that was non-uniform before
    stays so.

    Raises:
        UnsupportedModelError: The architecture's config cannot say these shapes, and
            `allow_nonuniform` is not set.
    """
    was_uniform, config = config.get("model_type") != NONUNIFORM, base_config(config)
    widths: dict[str, set[int]] = {}
    for block in kept:
        for unit, count in block:
            widths.setdefault(_size_key(kind, config, unit), set()).add(count)
    if not was_uniform:
        return _nonuniform(kind, config, widths, True)
    architecture = facts.facts_of(config)
    can_say = all(len(sizes) == 1 for sizes in widths.values())
    if kind == "heads":
        can_say = can_say and bool(architecture.head_width)
    if not can_say:
        return _nonuniform(kind, config, widths, allow_nonuniform)
    changed = dict(config)
    for key, sizes in widths.items():
        (size,) = sizes
        changed[key] = size
        if kind == "heads":
            ratio = facts.num_heads(config) // facts.num_kv_heads(config)
            changed["num_attention_heads"] = size * ratio
            changed[architecture.head_width] = facts.head_dim(config)
    return changed if _is_accepted(changed) else _nonuniform(kind, config, widths, allow_nonuniform)


def _is_accepted(config: Config) -> bool:
    """Say whether the architecture's config class takes these numbers: some want heads that divide.

    It does so in whatever way it likes, hence the wide net.
    """
    from transformers import AutoConfig

    fields = {key: value for key, value in config.items() if key != "model_type"}
    try:
        AutoConfig.for_model(config["model_type"], **fields)
    except Exception:
        return False
    return True


def _size_key(kind: str, config: Config, unit: Unit) -> str:
    architecture = facts.facts_of(config)
    if kind == "heads":
        return architecture.kv_heads
    keys = architecture.neurons
    if unit.last.input.startswith("shared"):
        return keys[2]
    return keys[1] if unit.last.expert is not None and len(keys) > 1 else keys[0]


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


def cut_tensor(tensor: "torch.Tensor", cut: Cut | None) -> "torch.Tensor":
    """Return `tensor` without what `cut` removes."""
    import torch

    return tensor if cut is None else tensor.index_select(cut.axis, torch.tensor(cut.kept))
