"""Whether the weights of a checkpoint and its config belong together, tensor by tensor."""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from treadle.core.checkpoint import CheckpointReader, require_finite
from treadle.core.codec import FLOATS
from treadle.core.errors import CheckpointError, UnsupportedModelError
from treadle.model import facts

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

__all__ = [
    "UnreadTensorsError",
    "disk_name",
    "require_all_read",
    "require_filled",
    "require_finite_where_read",
    "require_named",
    "require_shapes",
    "require_so_many",
    "require_sound_numbers",
    "shapes_of",
]

# Buffers that older versions of transformers saved, and that are computed now.
_COMPUTED = re.compile(r"(rotary_emb\.inv_freq|attn\.bias|attention\.bias|masked_bias)$")


class UnreadTensorsError(CheckpointError):
    """Tensors lie in a folder that its config has no place for: others leave them out."""

    def __init__(self, message: str, num_tensors: int) -> None:
        super().__init__(message)
        self.num_tensors = num_tensors


def shapes_of(reader: CheckpointReader) -> dict[str, tuple[int, ...]]:
    """Return the shape of every tensor on disk, by name."""
    return {name: info.shape for name, info in reader.tensors.items()}


def disk_name(name: str, architecture: facts.Architecture, reader: CheckpointReader) -> str:
    """Return what a parameter is called on disk.

    Raises:
        CheckpointError: There is nothing of its names.
    """
    for candidate in facts.disk_names(name, architecture):
        if candidate in reader.tensors or candidate in reader.tied:
            return candidate
    raise CheckpointError(
        f"Tensor '{name}' is missing from '{reader.folder}'; download the checkpoint again, or "
        f"check that config.json belongs to these weights."
    )


def require_so_many(base: facts.Config, reader: CheckpointReader) -> None:
    """Refuse numbers of layers and experts that a model of these files cannot have.

    To build it would take hours, or all memory.
    """
    architecture, num_tensors = facts.facts_of(base), len(reader.tensors)
    counts = {"layers": facts.num_layers(base)}
    facts.head_dim(base), facts.num_kv_heads(base)  # numbers above 0, or refused
    if architecture.num_experts:
        counts["experts"] = facts.num_experts(base)
    for what, count in counts.items():
        # Experts may lie on each other in one tensor: a row of the router is one's own.
        most = max(map(max, filter(None, (i.shape for i in reader.tensors.values()))), default=0)
        if count > max(num_tensors, most if what == "experts" else 0):
            raise CheckpointError(
                f"config.json of '{reader.folder}' says {count} {what}, but {num_tensors} tensors "
                f"are stored; download both again from one place."
            )


def require_shapes(module: "PreTrainedModel", reader: CheckpointReader) -> None:
    """Check that all tensors that a model reads are floats of the shapes that its config makes.

    Where blocks may differ in width, their matrices must fit each other.

    Raises:
        CheckpointError: One is of another shape, or holds no floats.
    """
    base, shapes = facts.base_config(reader.config), shapes_of(reader)
    architecture = facts.facts_of(base)
    is_uneven = reader.config.get("model_type") == facts.NONUNIFORM
    parameters = dict(module.named_parameters())
    widths: set[str] = set()
    for layer in range(facts.num_layers(base)):
        stem = architecture.blocks.format(layer=layer)
        matrices = facts.linears(base, layer, shapes)
        for matrix in matrices:
            _require_floats(matrix.tensor, reader)
            if is_uneven:
                widths |= {matrix.tensor, matrix.tensor.removesuffix("weight") + "bias"}
            elif matrix.expert is not None:
                _require_expert(matrix, parameters[stem + matrix.parameter], reader)
        if is_uneven:
            _require_coupled(matrices, base, shapes, str(reader.folder))
    for name, parameter in parameters.items():
        if architecture.num_experts and ".experts." in name and name not in shapes:
            continue  # one parameter holds many tensors, which were looked at above
        on_disk = disk_name(name, architecture, reader)
        stored = reader.tied.get(on_disk, on_disk)
        _require_floats(stored, reader)
        if stored not in widths and shapes[stored] != tuple(parameter.shape):
            raise _misshapen(on_disk, shapes[stored], tuple(parameter.shape), reader)


def _require_floats(name: str, reader: CheckpointReader) -> None:
    info = reader.tensors[name]
    if info.dtype not in FLOATS:
        raise CheckpointError(
            f"Tensor '{name}' in '{info.file}' holds {info.dtype}, but floats were expected; "
            f"dequantise the model first."
        )


def _require_expert(
    matrix: facts.Linear, parameter: "torch.Tensor", reader: CheckpointReader
) -> None:
    """Check one expert's matrix against the parameter that holds all of them [experts, out, in]."""
    rows, columns = tuple(parameter.shape[1:])
    rows = rows if matrix.role == "down" or matrix.place is not None else rows // 2
    found = reader.tensors[matrix.tensor].shape
    wanted = (rows, columns) if matrix.place is None else tuple(parameter.shape)
    if found != wanted:
        raise _misshapen(matrix.tensor, found, wanted, reader)


def _misshapen(
    name: str, found: tuple[int, ...], wanted: tuple[int, ...], reader: CheckpointReader
) -> CheckpointError:
    return CheckpointError(
        f"Tensor '{name}' in '{reader.folder}' has shape {list(found)}, but config.json makes it "
        f"{list(wanted)}; download both again from one place."
    )


def _require_coupled(
    matrices: Sequence[facts.Linear], config: facts.Config, shapes: facts.Shapes, folder: str
) -> None:
    """Check that the matrices of a block fit each other, whatever widths it has.

    Raises:
        CheckpointError: One does not.
    """
    hidden = facts.hidden_size(config)
    ratio = facts.num_heads(config) // facts.num_kv_heads(config)
    group = facts.head_dim(config) * ratio
    for last in (matrix for matrix in matrices if matrix.role in ("down", "o")):
        columns = _axes(last, shapes)[1]
        whole = columns // group * group if last.role == "o" else columns
        _require_axes(last, (hidden, whole), shapes, folder)
        source = last.input.replace("down_in", "mlp_in").replace("o_in", "attn_in")
        rows = {"k": columns // ratio, "v": columns // ratio, "qkv": 3 * columns}
        for matrix in (one for one in matrices if one.input == source):
            wanted = (rows.get(matrix.role, columns), hidden)
            _require_axes(matrix, wanted, shapes, folder)


def _axes(matrix: facts.Linear, shapes: facts.Shapes) -> tuple[int, ...]:
    """Return [out, in] of a matrix on disk, its own rows alone; other axes where it has them."""
    shape = shapes[matrix.tensor]
    if len(shape) != 2 + (matrix.place is not None):
        return (*shape, 0)
    rows, columns = matrix.whole_shape(shapes)
    return len(range(*matrix.rows.indices(rows))), columns


def _require_axes(
    matrix: facts.Linear, wanted: tuple[int, ...], shapes: facts.Shapes, folder: str
) -> None:
    found = _axes(matrix, shapes)
    bias = matrix.tensor.removesuffix("weight") + "bias"
    if found == wanted and matrix.place is None and bias in shapes:
        found, wanted = shapes[bias], (matrix.whole_shape(shapes)[0],)
    if found != wanted:
        raise CheckpointError(
            f"Matrix '{matrix.name}' in '{folder}' (or its bias) is {list(found)}, but "
            f"{list(wanted)} fits the others of its block; copy the folder again, or prune the "
            f"dense model again."
        )


def require_sound_numbers(module: "PreTrainedModel", reader: CheckpointReader) -> None:
    """Check numbers of a config that no shape shows.

    Raises:
        CheckpointError: Tokens would go to more experts than there are, or see no others.
    """
    base = facts.base_config(reader.config)
    chosen = getattr(module.config, "num_experts_per_tok", None)
    if facts.facts_of(base).num_experts and chosen is not None:
        count = facts.num_experts(base)
        if not isinstance(chosen, int) or not 1 <= chosen <= count:
            raise CheckpointError(
                f"config.json of '{reader.folder}' sends each token to {chosen} of {count} experts "
                f"(num_experts_per_tok); correct it."
            )
    window = getattr(module.config, "sliding_window", None)
    if isinstance(window, int) and window < 0:
        raise CheckpointError(
            f"config.json of '{reader.folder}' says sliding_window: {window}, but a length, or "
            f"null, was expected; correct it."
        )


def require_finite_where_read(name: str, reader: CheckpointReader) -> None:
    """Check that a tensor's numbers are finite, unless its model has no place for it.

    Raises:
        CheckpointError: One is NaN or infinite.
    """
    try:
        require_finite(name, reader.array(name), reader.tensors[name].file)
    except CheckpointError:
        if _has_place(name, reader):
            raise


def _has_place(name: str, reader: CheckpointReader) -> bool:
    """Say whether a model computes with a tensor; it does where transformers cannot say."""
    from treadle.model.anatomy import Anatomy, Unbuilt

    if _COMPUTED.search(name):
        return False
    try:
        fit = Anatomy(facts.whole_config(reader.config)).fit(shapes_of(reader))
    except Unbuilt:
        return True
    return name not in fit.unread


def require_filled(reader: CheckpointReader) -> None:
    """Check that all towers of a model are whole, where transformers knows its config.

    Raises:
        CheckpointError: A tensor is missing or of another shape, or the config describes no model.
    """
    from treadle.model.anatomy import Anatomy, Unbuilt

    try:
        fit = Anatomy(facts.whole_config(reader.config)).fit(shapes_of(reader))
    except Unbuilt as reason:
        if not reason.is_refusal:
            return
        raise CheckpointError(
            f"config.json of '{reader.folder}' describes no model, as {reason}; correct it, or "
            f"download it again."
        ) from reason
    is_uneven = reader.config.get("model_type") == facts.NONUNIFORM
    misshapen = [] if is_uneven else [name for name, *_ in fit.misshapen]
    if amiss := [*fit.missing, *misshapen]:
        raise CheckpointError(
            f"'{reader.folder}' has no tensor '{amiss[0]}' of the shape that its config.json "
            f"makes; download both again from one place."
        )


def require_all_read(
    module: "PreTrainedModel",
    reader: CheckpointReader,
    config: facts.Config,
) -> None:
    """Check that the blocks on disk are the blocks of the config.

    What lies outside the blocks may be parts that no language model needs (vision, a tied head).

    Args:
        module: The model of the config.
        reader: The checkpoint.
        config: Of the architecture.

    Raises:
        UnreadTensorsError: There are blocks beyond the config's last one (layers that predict
            further tokens, num_nextn_predict_layers, are known and left out), or tensors in a block
            that the model has no place for.
    """
    shapes = {name: info.shape for name, info in reader.tensors.items()}
    stem = facts.block_prefix(config, 0, shapes).removesuffix("0.")
    inside = {
        name: int(found[1])
        for name in reader.tensors
        if (found := re.match(rf"{re.escape(stem)}(\d+)\.", name))
    }
    num_layers = facts.num_layers(config)
    most = num_layers + int(config.get("num_nextn_predict_layers") or 0)
    beyond = [name for name, layer in inside.items() if layer >= most]
    if beyond:
        raise UnreadTensorsError(
            f"config.json of '{reader.folder}' makes {num_layers} layers, but {len(beyond)} "
            f"tensors belong to layers behind them (the first is '{beyond[0]}'); download both "
            f"again from one place, or correct {facts.spelt_key(config, 'num_hidden_layers')} "
            f"({max(inside.values()) + 1} layers are stored).",
            len(beyond),
        )
    known = _places(module, config)
    for layer in range(num_layers):
        known |= {matrix.tensor for matrix in facts.linears(config, layer, shapes)}
    unread = [
        name
        for name, layer in inside.items()
        if layer < num_layers and name not in known and not _is_harmless(name, reader)
    ]
    if unread:
        raise UnreadTensorsError(
            f"{len(unread)} tensors of '{reader.folder}' have no place in the model that "
            f"config.json describes (the first is '{unread[0]}'), so that it would compute "
            f"something else; download both again from one place, or correct config.json.",
            len(unread),
        )


def require_named(
    module: "PreTrainedModel", layers: Sequence[Sequence[facts.Linear]], config: facts.Config
) -> None:
    """Check that facts name every matrix of the blocks: what they do not name stays as it is.

    Args:
        module: The model of the config.
        layers: The matrices of its blocks that facts name.
        config: Of the architecture.

    Raises:
        UnsupportedModelError: A block has a matrix that is neither named nor a router.
    """
    architecture = facts.facts_of(config)
    for layer, matrices in enumerate(layers):
        named = {matrix.parameter for matrix in matrices}
        named |= {facts.renamed(router, architecture) for router in architecture.routers}
        block = module.get_submodule(architecture.blocks.format(layer=layer)[:-1])
        for name, parameter in block.named_parameters():
            if parameter.dim() > 1 and name not in named:
                raise UnsupportedModelError(
                    f"Matrix '{name}' of block {layer} is one that treadle does not know of in "
                    f"models of type '{config['model_type']}', and would stay as it is without a "
                    f"word; name it in ARCHITECTURES of treadle/model/facts/architectures.py."
                )


def _places(module: "PreTrainedModel", config: facts.Config) -> set[str]:
    """Return what the module's parameters and buffers may be called on disk."""
    architecture = facts.facts_of(config)
    return {
        name
        for own, _ in [*module.named_parameters(), *module.named_buffers()]
        for name in facts.disk_names(own, architecture)
    }


def _is_harmless(name: str, reader: CheckpointReader) -> bool:
    """Say whether the model is whole without a tensor: it is computed, or adds nothing but zeros.

    Experts are stacked in the module, and named by facts.
    """
    if _COMPUTED.search(name):
        return True
    return name.endswith(".bias") and not reader.array(name).any()
