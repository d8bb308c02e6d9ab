"""The config.json of a merged model."""

import copy
from collections.abc import Sequence
from typing import Any

from treadle.core.codec import DTYPES

__all__ = ["merged_config"]

Config = dict[str, Any]  # Any: JSON values of config.json
_NUM_LAYERS = ("num_hidden_layers", "n_layer", "num_layers")


def merged_config(parent: Config, layers: Sequence[int], dtype: str, has_own_head: bool) -> Config:
    """Return the parent's config with the depth, the dtype and the head of the output.

    Args:
        parent: The config of the base, or of the first model.
        layers: For each layer of the output, the layer of the first source that it comes from.
        dtype: The safetensors code of most tensors.
        has_own_head: Whether the output has a head that is not the embedding.
    """
    config = copy.deepcopy(parent)
    for key in ("torch_dtype", "dtype"):
        if key in config:
            config[key] = DTYPES[dtype].name
    if "torch_dtype" not in config and "dtype" not in config:
        config["dtype"] = DTYPES[dtype].name
    if has_own_head:
        config["tie_word_embeddings"] = False
    depth = next((parent[key] for key in _NUM_LAYERS if key in parent), None)
    for key, value in parent.items():
        if key in _NUM_LAYERS:
            config[key] = len(layers)
        elif isinstance(value, list) and len(value) == depth and depth != len(layers):
            config[key] = [value[layer] for layer in layers]  # one entry a layer
    return config
