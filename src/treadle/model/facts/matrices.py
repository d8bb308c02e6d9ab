"""The matrices of a block: where each lies on disk and in the module, and what it reads.

A *linear* here is a matrix [out, in] as the paper sees it, whatever the checkpoint does with it: a
slice of rows of a fused matrix (phi3), a transposed matrix (GPT-2's Conv1D), one of many experts,
or one of the experts that lie on each other in one tensor. Its *input* names the unique activation
it reads: q, k and v share one, gate and up share one.
"""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from treadle.core.errors import CheckpointError
from treadle.model.facts.architectures import Architecture, LinearFact
from treadle.model.facts.sizes import Config, facts_of, num_experts, num_heads, num_kv_heads

__all__ = ["Linear", "Shapes", "block_prefix", "disk_names", "linears", "renamed"]

Shapes = dict[str, tuple[int, ...]]


class Linear(NamedTuple):
    """One matrix of one block: where it is on disk and in the module, and what it reads."""

    role: str
    input: str
    """Unique inside the block; of an expert's matrix it carries the expert's number."""
    layer: int
    tensor: str
    """Full name on disk."""
    parameter: str
    """Name of the module's parameter inside the block."""
    rows: slice
    """Rows [out] of the matrix on disk that belong to it."""
    transposed: bool
    expert: int | None = None
    parameter_rows: slice = slice(None)
    """Rows of the module's parameter, where that is fused more than the disk is."""
    place: int | None = None
    """Index along the first axis of the tensor on disk, where that holds all experts."""

    @property
    def name(self) -> str:
        """The tensor's name, with what part of it the matrix is."""
        place = "" if self.place is None else f"[{self.place}]"
        rows = "" if self.rows == slice(None) else f"[{self.role}]"
        return f"{self.tensor}{place}{rows}"

    def of(self, tensor: Any) -> Any:  # Any: a torch tensor or a numpy array
        """Return the matrix [out, in] inside its tensor on disk, as a view."""
        value = tensor if self.place is None else tensor[self.place]
        return (value.T if self.transposed else value)[self.rows]

    def whole_shape(self, shapes: Shapes) -> tuple[int, int]:
        """Return [out, in] of the matrix on disk, with all rows that are fused there."""
        first, second = shapes[self.tensor][-2:]
        return (second, first) if self.transposed else (first, second)

    @property
    def out_axis(self) -> int:
        """The axis of the tensor on disk along which the matrix's rows lie."""
        return (self.place is not None) + self.transposed

    @property
    def in_axis(self) -> int:
        """The axis of the tensor on disk along which the matrix's columns lie."""
        return (self.place is not None) + (not self.transposed)


def _part_rows(fact: LinearFact, config: Config, out_size: int) -> slice:
    if not fact.part:
        return slice(None)
    if fact.part in ("gate", "up"):
        half = out_size // 2
        return slice(0, half) if fact.part == "gate" else slice(half, out_size)
    # Read from the size on disk, so that blocks whose heads were pruned are cut in the right
    # places.
    ratio = num_heads(config) // num_kv_heads(config)
    kv_size = out_size // (ratio + 2)
    starts = {"q": 0, "k": ratio * kv_size, "v": (ratio + 1) * kv_size}
    return slice(
        starts[fact.part], starts[fact.part] + (ratio if fact.part == "q" else 1) * kv_size
    )


def renamed(name: str, facts: Architecture) -> str:
    """Return a name on disk in the words of the module."""
    for old, new in facts.renames:
        name = name.replace(old, new)
    return name


def linears(config: Config, layer: int, shapes: Shapes) -> list[Linear]:
    """Return the matrices of block `layer`, in the order in which the block runs them.

    `shapes` are those on disk by full name. Only in a mixture may the MLP's tensors be absent: its
    blocks are dense or of experts. The router of a mixture is not a linear: it is never pruned.

    Raises:
        CheckpointError: A tensor that belongs to the block is not there.
    """
    facts = facts_of(config)
    prefix = block_prefix(config, layer, shapes)
    _require(
        shapes,
        [
            prefix + fact.tensor
            for fact in facts.linears
            if not facts.num_experts or fact.input in ("attn_in", "o_in")
        ],
    )
    found: list[Linear] = []
    for fact in facts.linears:
        tensor = prefix + fact.tensor
        if tensor in shapes:
            size = shapes[tensor][1 if fact.transposed else 0]
            rows = _part_rows(fact, config, size)
            parameter = renamed(fact.tensor, facts)
            found.append(
                Linear(
                    fact.role,
                    fact.input,
                    layer,
                    tensor,
                    parameter,
                    rows,
                    fact.transposed,
                    None,
                    rows,
                )
            )
    if facts.num_experts:
        found += _expert_linears(config, facts, layer, prefix, shapes)
    return found


def _require(shapes: Shapes, tensors: list[str]) -> None:
    for tensor in tensors:
        if tensor not in shapes:
            raise CheckpointError(
                f"Tensor '{tensor}' is missing from the checkpoint; download it again, or check "
                f"that config.json belongs to these weights."
            )


def _expert_linears(
    config: Config, facts: Architecture, layer: int, prefix: str, shapes: Shapes
) -> list[Linear]:
    """Return the experts' matrices: of a tensor each, or on each other in two tensors."""
    count = num_experts(config)
    each = {
        prefix + fact.tensor.format(expert=expert)
        for expert in range(count)
        for fact in facts.expert_linears
    }
    home = facts.expert_linears[0].tensor.split(".{expert}")[0]
    homes = dict.fromkeys((renamed(home, facts), home))
    fused = [f"{prefix}{one}.{name}" for one in homes for name in ("gate_up_proj", "down_proj")]
    fused = [name for name in fused if name in shapes]
    if not fused:
        if not each.isdisjoint(shapes):
            _require(shapes, sorted(each))
            return [*_each_expert(facts, layer, prefix, shapes, count, False)]
        return []
    if not each.isdisjoint(shapes):
        raise CheckpointError(
            f"The experts of block {layer} are stored twice: '{fused[0]}' holds all of them, and "
            f"'{min(each & shapes.keys())}' one; remove what does not belong to this model."
        )
    stem = fused[0].rpartition(".")[0]
    _require(shapes, [f"{stem}.gate_up_proj", f"{stem}.down_proj"])
    for name in fused:
        if len(shapes[name]) != 3 or shapes[name][0] != count:
            raise CheckpointError(
                f"Tensor '{name}' has shape {list(shapes[name])}, but config.json says {count} "
                f"experts, so [{count}, out, in] was expected; download both again from one place."
            )
    return [*_each_expert(facts, layer, f"{stem}.", shapes, count, True)]


def _each_expert(
    facts: Architecture, layer: int, stem: str, shapes: Shapes, count: int, is_stacked: bool
) -> Iterator[Linear]:
    """Yield the matrices of all experts; `stem` precedes the names of tensors on disk."""
    home = renamed(facts.expert_linears[0].tensor.split(".{expert}")[0], facts)
    for expert in range(count):
        for fact in facts.expert_linears:
            fused = "down_proj" if fact.role == "down" else "gate_up_proj"
            tensor = stem + (fused if is_stacked else fact.tensor.format(expert=expert))
            size = shapes[tensor][1] // 2 if is_stacked else shapes[tensor][0]
            # Gate and up are one parameter of the module, one above the other.
            part = {"gate": slice(0, size), "up": slice(size, 2 * size)}.get(fact.role, slice(None))
            yield Linear(
                role=fact.role,
                input=f"{fact.input}.{expert}",
                layer=layer,
                tensor=tensor,
                parameter=f"{home}.{fused}",
                rows=part if is_stacked else slice(None),
                transposed=False,
                expert=expert,
                parameter_rows=part,
                place=expert if is_stacked else None,
            )


def disk_names(name: str, facts: Architecture) -> list[str]:
    """Return what a module's parameter may be called on disk, the likeliest first.

    As in the module; without the model's own prefix, or in words of before transformers 5; and as
    the text tower of a wrapper.
    """
    words = [name, *(name.replace(new, old) for old, new in facts.renames)]
    short = [word.removeprefix(facts.prefix) for word in words]
    towers = [
        wrapped
        for word, cut in zip(words, short, strict=True)
        for wrapped in (
            f"language_model.{word}",
            f"model.language_model.{cut}",
            f"model.text_model.{cut}",
            f"text_model.{word}",
        )
    ]
    return list(dict.fromkeys([*words, *short, *towers]))


def block_prefix(
    config: Config, layer: int, names: Mapping[str, Any]
) -> str:  # Any: only the keys are read
    """Return the prefix of block `layer` on disk.

    Old checkpoints leave the model's own out, and wrappers put their tower's before it.
    """
    facts = facts_of(config)
    full = facts.blocks.format(layer=layer)
    tensors = [fact.tensor for fact in facts.linears]
    for prefix in disk_names(full, facts):
        if any(prefix + tensor in names for tensor in tensors):
            return prefix
    return full
