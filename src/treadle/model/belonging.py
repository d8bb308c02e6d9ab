"""Whether the weights of a checkpoint and its config belong together, tensor by tensor."""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from treadle.core.checkpoint import CheckpointReader
from treadle.core.errors import CheckpointError, UnsupportedModelError
from treadle.model import facts

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = [
    "disk_name",
    "require_all_read",
    "require_named",
    "require_shapes",
    "require_so_many",
    "shapes_of",
]

# Buffers that older versions of transformers saved, and that are computed now.
_COMPUTED = re.compile(r"(rotary_emb\.inv_freq|attn\.bias|attention\.bias|masked_bias)$")


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
    """Check that the config and the weights on disk belong together."""
    base = facts.base_config(reader.config)
    architecture, shapes = facts.facts_of(base), shapes_of(reader)
    for name, parameter in module.named_parameters():
        if architecture.num_experts and ".experts." in name and name not in shapes:
            continue  # one parameter holds many tensors: facts.linears finds each
        on_disk = disk_name(name, architecture, reader)
        found = shapes[reader.tied.get(on_disk, on_disk)]
        if found != tuple(parameter.shape):
            raise CheckpointError(
                f"Tensor '{on_disk}' in '{reader.folder}' has shape {list(found)}, but config.json "
                f"makes it {list(parameter.shape)}; download both again from one place."
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
        CheckpointError: There are blocks beyond the config's last one (layers that predict further
            tokens, num_nextn_predict_layers, are known and left out), or tensors in a block that
            the model has no place for.
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
        raise CheckpointError(
            f"config.json of '{reader.folder}' makes {num_layers} layers, but {len(beyond)} "
            f"tensors belong to layers behind them (the first is '{beyond[0]}'); download both "
            f"again from one place, or correct num_hidden_layers ({max(inside.values()) + 1} "
            f"layers are stored)."
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
        raise CheckpointError(
            f"{len(unread)} tensors of '{reader.folder}' have no place in the model that "
            f"config.json describes (the first is '{unread[0]}'), so that it would compute "
            f"something else; download both again from one place, or correct config.json."
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
