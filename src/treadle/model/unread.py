"""Tensors of a checkpoint that the model of its config has no place for."""

import re
import warnings
from typing import TYPE_CHECKING, Any

from treadle.core.checkpoint import CheckpointReader
from treadle.core.errors import CheckpointError
from treadle.model import facts

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["require_all_read"]

# Buffers that older versions of transformers saved, and that are computed now.
_COMPUTED = re.compile(r"(rotary_emb\.inv_freq|attn\.bias|attention\.bias|masked_bias)$")


def require_all_read(
    module: "PreTrainedModel",
    reader: CheckpointReader,
    config: dict[str, Any],  # Any: JSON values
) -> None:
    """Check that the blocks on disk are the blocks of the config.

    What lies outside the blocks may be parts that no language model needs (vision, a tied head).

    Args:
        module: The model of the config.
        reader: The checkpoint.
        config: Of the architecture.

    Raises:
        CheckpointError: There are blocks beyond the config's last one; layers that predict further
            tokens (num_nextn_predict_layers) are known and left out.
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
    unread = [
        name
        for name, layer in inside.items()
        if layer < num_layers and name not in known and not _is_harmless(name, reader)
    ]
    if unread:
        warnings.warn(
            f"{len(unread)} tensors of '{reader.folder}' have no place in the model that "
            f"config.json describes and are left out (the first is '{unread[0]}'); check that "
            f"config.json belongs to these weights.",
            stacklevel=3,
        )


def _places(module: "PreTrainedModel", config: dict[str, Any]) -> set[str]:  # Any: JSON values
    """Return what the module's parameters and buffers may be called on disk."""
    architecture = facts.facts_of(config)
    found: set[str] = set()
    for name, _ in [*module.named_parameters(), *module.named_buffers()]:
        old_words = (name.replace(new, old) for old, new in architecture.renames)
        found |= {name, name.removeprefix(architecture.prefix), *old_words}
    return found


def _is_harmless(name: str, reader: CheckpointReader) -> bool:
    """Say whether the model is whole without a tensor: experts are stacked, zeros add nothing."""
    if ".experts." in name or _COMPUTED.search(name):
        return True
    return name.endswith(".bias") and not reader.array(name).any()
