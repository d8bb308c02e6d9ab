"""The config.json of a merged model."""

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from treadle.combine.merge.inputs.by_layer import LISTS, LayerOrigin, moved
from treadle.combine.merge.inputs.towers import Tower, depth_keys
from treadle.core.codec import DTYPES

__all__ = ["Layering", "merged_config", "section"]

Config = dict[str, Any]  # Any: JSON values of config.json
Spelling = Callable[[Mapping[str, Any]], Mapping[str, Any] | None]
"""Return a config with everything that transformers derives; None where it does not know it."""
_TIED = "tie_word_embeddings"


class Layering(NamedTuple):
    """A tower of the output."""

    tower: Tower
    layers: Sequence[tuple[Mapping[str, Any], int]]
    """For each layer the config of the model that it comes from, and its number there."""

    @property
    def is_as_before(self) -> bool:
        """Whether the layers are all of one model's, in their order."""
        whole = list(range(self.tower.num_layers))
        return [layer for _, layer in self.layers] == whole and all(
            config == self.layers[0][0] for config, _ in self.layers
        )

    def origins(self, spelling: Spelling, depths: Sequence[str]) -> list[LayerOrigin]:
        """Return the layers with what the configs say of them; `depths` are keys of their count."""
        spelt: dict[int, tuple[Mapping[str, Any], int]] = {}
        found = []
        for source, layer in self.layers:
            if id(source) not in spelt:
                said = section(spelling(source) or source, self.tower.place)
                depth = next((said[key] for key in depths if key in said), self.tower.num_layers)
                spelt[id(source)] = said, depth
            said, depth = spelt[id(source)]
            found.append(LayerOrigin(said, layer, depth))
        return found


def section(config: Mapping[str, Any], place: Sequence[str]) -> Mapping[str, Any]:
    """Return the part of a config that speaks of a tower."""
    for key in place:
        config = config.get(key) or {}
    return config


def merged_config(
    parent: Mapping[str, Any],
    layerings: Sequence[Layering],
    dtype: str,
    is_tied: bool | None,
    spelling: Spelling,
) -> tuple[Config, list[str]]:
    """Return the parent's config for the output, and the keys that cannot say what its layers are.

    Args:
        parent: The config of the base, or of the first model.
        layerings: The towers of the output.
        dtype: The safetensors code of most tensors.
        is_tied: Whether the output's head is its embedding; None where the parent's word holds.
        spelling: For what transformers derives from a layer's place.
    """
    config = copy.deepcopy(dict(parent))
    for key in ("torch_dtype", "dtype"):
        if key in config:
            config[key] = DTYPES[dtype].name
    if "torch_dtype" not in config and "dtype" not in config:
        config["dtype"] = DTYPES[dtype].name
    if is_tied is not None:
        _tie(config, is_tied)
    unsaid: list[str] = []
    for layering in layerings:
        if not layering.is_as_before:
            unsaid += _place_layers(config, layering, spelling)
    return config, unsaid


def _tie(config: Config, is_tied: bool) -> None:
    """Say whether the head is the embedding, wherever a loader may look."""
    config[_TIED] = is_tied
    for key, value in config.items():
        if key.endswith("config") and isinstance(value, dict) and _TIED in value:
            value[_TIED] = is_tied


def _place_layers(config: Config, layering: Layering, spelling: Spelling) -> list[str]:
    tower = layering.tower
    own = config
    for key in tower.place:
        own = own[key]
    depths = depth_keys(own, tower.part)
    origins = layering.origins(spelling, depths)
    changes, unsaid = moved({k: v for k, v in own.items() if k not in depths}, origins)
    derived = {key: value for key, value in origins[0].config.items() if key not in own}
    added, _ = moved({k: v for k, v in derived.items() if k in LISTS}, origins)
    own |= changes | dict.fromkeys(depths, len(origins))
    # What transformers would derive from the new places is written out where it is another thing.
    now = section(spelling(config) or {}, tower.place)
    own |= {key: value for key, value in added.items() if now and now.get(key) != value}
    return unsaid
