"""A model with fewer decoder blocks, seen through its own files: nothing is copied."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from treadle.core.checkpoint import CheckpointReader
from treadle.core.errors import UnsupportedModelError
from treadle.model import facts
from treadle.model.belonging import shapes_of

__all__ = ["open_shallower", "require_same_blocks"]

_OF_NUMBERS = ("mlp_only_layers",)
"""Keys of configs that list the numbers of blocks; lists of one value a block are found by
their length."""
_TOLERANCE = 1e-4


def open_shallower(folder: Path, kept: Sequence[int]) -> CheckpointReader:
    """Open a model as if it had only the blocks `kept`, numbered anew.

    What its config says of each block goes along, also where it leaves that to its class.

    Args:
        folder: A Hugging Face folder of floats.
        kept: Numbers of blocks, ascending.
    """
    reader = CheckpointReader(folder)
    config, shapes = facts.base_config(reader.config), shapes_of(reader)
    num_layers = facts.num_layers(config)
    prefixes = [facts.block_prefix(config, layer, shapes) for layer in range(num_layers)]
    renamed = {}
    for new, old in enumerate(kept):
        number = f".{old}."
        head, _, tail = prefixes[old].rpartition(number)
        renamed[prefixes[old]] = f"{head}.{new}.{tail}"
    tensors = {}
    for name, info in reader.tensors.items():
        own = next((prefix for prefix in prefixes if name.startswith(prefix)), None)
        if own is None:
            tensors[name] = info
        elif own in renamed:
            new_name = renamed[own] + name.removeprefix(own)
            tensors[new_name] = info._replace(name=new_name)
    reader.tensors = tensors
    reader.config = _config(reader.config, kept)
    return reader


def _config(whole: dict[str, Any], kept: Sequence[int]) -> dict[str, Any]:  # Any: JSON values
    base = facts.base_config(whole)
    num_layers = facts.num_layers(base)
    changes: dict[str, Any] = {}
    for key, value in _completed(base).items():
        if isinstance(value, list) and len(value) == num_layers and key not in _OF_NUMBERS:
            changes[key] = [value[layer] for layer in kept]
        elif isinstance(value, list) and key in _OF_NUMBERS:
            changes[key] = [new for new, old in enumerate(kept) if old in value]
    for key in ("num_hidden_layers", "n_layer", "num_layers"):
        if key in facts.text_config(whole) or key == "num_hidden_layers":
            changes[key] = len(kept)
    if "n_layer" in changes:
        del changes["num_hidden_layers"]
    if facts.whole_config(whole) is not whole:
        return {**whole, "treadle_base": facts.with_text(whole["treadle_base"], changes)}
    return facts.with_text(whole, changes)


def _completed(base: dict[str, Any]) -> dict[str, Any]:  # Any: JSON values
    """Return a config with what its class says of each block."""
    from transformers import AutoConfig

    if base.get("auto_map"):
        return base
    fields = {key: value for key, value in base.items() if key != "model_type"}
    made = AutoConfig.for_model(base["model_type"], **fields).to_dict()
    found: dict[str, Any] = json.loads(json.dumps(made, default=str))
    return found


def require_same_blocks(folder: Path, shallower: CheckpointReader, kept: Sequence[int]) -> None:
    """Check that each block computes in the shallower model what it did in the whole one.

    A config may say what a block does by its number; then the model cannot be written.

    Raises:
        UnsupportedModelError: One does not.
    """
    import torch

    from treadle.core.seed import torch_stream
    from treadle.model.layers import LayeredModel

    before, after = LayeredModel(CheckpointReader(folder)), LayeredModel(shallower)
    config = facts.base_config(shallower.config)
    length = min(64, facts.context_length(config) or 64)
    size = int(config["vocab_size"])
    tokens = torch.randint(size, (1, length), generator=torch_stream(0, "blocks"))
    hidden, other = before.embed(tokens), after.embed(tokens).clone()
    for new, old in enumerate(kept):
        with before.block(old) as block:
            hidden = before.forward(block, old, hidden)
        with after.block(new) as block:
            other = after.forward(block, new, other)
        if float((hidden - other).abs().max()) > _TOLERANCE * float(hidden.abs().max()):
            raise UnsupportedModelError(
                f"Block {old} of '{folder}' computes something else once it is block {new}, as "
                f"config.json of model_type '{config['model_type']}' says by its number what it "
                f"does; drop blocks so that it keeps its kind, or prune neurons or heads."
            )
