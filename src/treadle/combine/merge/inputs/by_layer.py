"""Keys of config.json that speak of single layers: what they say once layers stand elsewhere.

A key may hold a value for each layer, the numbers of some layers, how many layers at the start or
the end are of one kind, or after how many layers a kind returns.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

__all__ = ["CYCLES", "INDICES", "LEADING", "LISTS", "PERIODS", "SOURCES", "TRAILING", "LayerOrigin"]
__all__ += ["MAPS", "TAPS", "moved", "overruled"]

Config = Mapping[str, Any]  # Any: JSON values of config.json

LISTS = frozenset(
    [
        "activation_sparsity_pattern",
        "attention_layers",
        "attn_layers",
        "gnn_layers_types",
        "hidden_sizes",
        "hybrid_override_pattern",
        "indexer_types",
        "intermediate_size",
        "kv_sharing_modes",
        "layer_rope_theta",
        "layer_types",
        "layers_block_type",
        "layers_num_experts",
        "mlp_layer_types",
        "mlp_types",
        "moe_intermediate_size",
        "moe_layer_freq",
        "moe_topk",
        "no_rope_layers",
        "num_attention_heads",
        "num_attention_heads_per_layer",
        "num_experts",
        "num_key_value_heads",
        "num_key_value_heads_per_layer",
        "patch_sizes",
        "rope_layers",
        "sliding_windows",
        "layer_pattern",
        "attention_types_per_layer",
    ]
)
"""A value for each layer; several of them may also be one value for all."""
CYCLES = frozenset({"block_types"})
"""Values that begin anew after the last one."""
INDICES = frozenset(
    [
        "attn_layer_indices",
        "cross_attention_layers",
        "full_attn_idxs",
        "full_attn_layers",
        "fullatt_block_indexes",
        "global_attention_blocks",
        "global_attn_indexes",
        "hybrid_layer_ids",
        "kda_layers",
        "local_layer_ids",
        "mlp_only_layers",
        "moe_layers",
        "ple_layer_ids",
        "residual_block_indices",
        "rope_scaling_layers",
        "subsample_layers",
        "window_block_indexes",
        "window_block_indices",
    ]
)
"""The numbers of the layers of one kind, from 0 on."""
MAPS = frozenset({"per_layer_config"})
"""Mappings of the numbers of layers to what is special about them."""
TAPS = frozenset({"deepstack_visual_indexes", "extract_layers", "intermediate_layers_indices"})
"""The numbers of layers whose outputs go elsewhere, each to a place of its own."""
SOURCES = frozenset({"kv_source_layers"})
"""For each layer the number of another one."""
LEADING = frozenset(
    [
        "dense_mlp_idx",
        "first_k_dense_replace",
        "max_window_layers",
        "moe_layer_start_index",
        "num_dense_layers",
        "num_first_full_attention_layers",
    ]
)
"""How many layers at the start are of one kind."""
TRAILING = frozenset({"num_kv_shared_layers", "num_last_full_attention_layers"})
"""How many layers at the end are of one kind."""
PERIODS = frozenset(
    [
        "_sliding_window_pattern",
        "attn_layer_period",
        "cross_attention_frequency",
        "cross_layer_interval",
        "decoder_sparse_step",
        "encoder_sparse_step",
        "expert_layer_period",
        "full_attention_interval",
        "global_attn_every_n_layers",
        "index_topk_freq",
        "interleave_moe_layer_step",
        "layer_group_size",
        "moe_layer_freq",
        "moe_layer_interval",
        "n_layers_per_attn_res_block",
        "no_rope_layer_interval",
        "num_mem_blocks",
        "sliding_window_pattern",
    ]
)
"""After how many layers a kind returns."""
_OVERRULES = {
    "layer_types": frozenset(
        {
            "_sliding_window_pattern",
            "full_attention_interval",
            "global_attn_every_n_layers",
            "layer_group_size",
            "max_window_layers",
            "sliding_window_pattern",
        }
    ),
    "mlp_layer_types": frozenset({"first_k_dense_replace", "moe_layer_freq", "num_dense_layers"}),
    "no_rope_layers": frozenset({"no_rope_layer_interval"}),
}
"""Lists that are read in place of the counts that they are derived from without them."""
_TYPES = "attention_types"
"""GPT-Neo's: pairs of kinds and how often they are repeated."""
_FROM_ONE = frozenset({"kda_layers", "full_attn_layers"})
"""Numbers of layers that count from 1."""
_END = "moe_layer_end_index"
_LAYERWISE = re.compile(r"(^|_)(layers?|blocks?)(_|$)")


class LayerOrigin(NamedTuple):
    """Where a layer of the output comes from."""

    config: Config
    """What speaks of its tower in the config of its model, with what transformers derives."""
    layer: int
    num_layers: int
    """How many layers that tower has."""


def moved(config: Config, origins: Sequence[LayerOrigin]) -> tuple[dict[str, Any], list[str]]:
    """Return a config's entries that change with the layers, and the keys that cannot say it.

    Args:
        config: What speaks of a tower in the output's config, as it was before.
        origins: Where each layer of the output comes from.
    """
    changes: dict[str, Any] = {}  # Any: JSON values
    unsaid: list[str] = []
    for key, value in config.items():
        if isinstance(value, Mapping) and key in MAPS:
            found_by_number = _renumbered(key, value, origins)
            if found_by_number != value:
                changes[key] = found_by_number
            continue
        if isinstance(value, Mapping) and not key.startswith(("text", "vision", "audio")):
            inner = [origin._replace(config=origin.config.get(key) or {}) for origin in origins]
            found, lost = moved(value, inner)
            unsaid += [f"{key}.{name}" for name in lost]
            if found:
                changes[key] = {**value, **found}
            continue
        rule = _rule(key, value, origins)
        values = [origin.config.get(key, value) for origin in origins]
        if rule is None or any(found is None for found in values):
            continue
        found = rule(key, values, origins)
        if found is None:
            unsaid += [key] if key not in overruled(config) else []
        elif found != value:
            changes[key] = found
    return changes, unsaid


def _renumbered(key: str, value: Config, origins: Sequence[LayerOrigin]) -> dict[str, Any]:
    found = {}
    for place, origin in enumerate(origins):
        own = origin.config.get(key) or value
        if str(origin.layer) in own:
            found[str(place)] = own[str(origin.layer)]
    return found


def overruled(config: Config) -> frozenset[str]:
    """Return the keys that say nothing, as a list in the same config says it."""
    found = (keys for key, keys in _OVERRULES.items() if isinstance(config.get(key), list))
    return frozenset().union(*found)


Rule = Callable[
    [str, list[Any], Sequence[LayerOrigin]], Any
]  # Any: JSON values; None: cannot be said


def _rule(key: str, value: Any, origins: Sequence[LayerOrigin]) -> Rule | None:  # Any: JSON values
    if isinstance(value, list | str) and key in LISTS:
        return _list
    if isinstance(value, list):
        of_lists: dict[frozenset[str], Rule] = {
            INDICES: _indices,
            TAPS: _taps,
            CYCLES: _cycle,
            SOURCES: _sources,
            frozenset({_TYPES}): _types,
        }
        for keys, rule in of_lists.items():
            if key in keys:
                return rule
        is_layerwise = len(value) == origins[0].num_layers and _LAYERWISE.search(key)
        return _list if is_layerwise else None
    if not isinstance(value, int) or isinstance(value, bool):
        return None
    if key == _END:
        return _last
    of_counts: dict[frozenset[str], Rule] = {
        LEADING: _leading,
        TRAILING: _trailing,
        PERIODS: _period,
    }
    return next((rule for keys, rule in of_counts.items() if key in keys), None)


def _list(key: str, values: list[Any], origins: Sequence[LayerOrigin]) -> Any:  # Any: JSON values
    found = []
    for value, origin in zip(values, origins, strict=True):
        if not isinstance(value, list | str):
            found.append(value)  # one for all layers of that model
        elif len(value) < origin.num_layers:
            return value if all(other == value for other in values) else None  # of something else
        else:
            found.append(value[origin.layer])
    if isinstance(values[-1], str):
        return "".join(found)
    # What stands behind the last layer belongs to layers that predict further tokens.
    behind = values[-1][origins[-1].num_layers :] if isinstance(values[-1], list) else []
    return [*found, *behind]


def _indices(key: str, values: list[Any], origins: Sequence[LayerOrigin]) -> list[int]:
    first = int(key in _FROM_ONE)
    found = []
    for place, (value, origin) in enumerate(zip(values, origins, strict=True)):
        numbers = {(number - first) % origin.num_layers for number in value}
        if origin.layer in numbers:
            found.append(place + first)
    return found


def _taps(key: str, values: list[Any], origins: Sequence[LayerOrigin]) -> list[int] | None:
    """Find each layer that is tapped; a lost, a repeated or a moved one leaves a place wrong."""
    layers = [origin.layer for origin in origins]
    wanted = [number % origins[0].num_layers for number in values[0]]
    if any(layers.count(number) != 1 for number in wanted):
        return None
    found = [layers.index(number) for number in wanted]
    in_order = sorted(found) if wanted == sorted(wanted) else found
    return found if found == in_order else None


def _cycle(key: str, values: list[Any], origins: Sequence[LayerOrigin]) -> list[Any]:
    return [value[origin.layer % len(value)] for value, origin in zip(values, origins, strict=True)]


def _sources(key: str, values: list[Any], origins: Sequence[LayerOrigin]) -> list[int] | None:
    """Find each layer's source among the layers of the output up to its own place."""
    found = []
    layers = [origin.layer for origin in origins]
    for place, (value, origin) in enumerate(zip(values, origins, strict=True)):
        before = layers[: place + 1][::-1]
        if value[origin.layer] not in before:
            return None
        found.append(place - before.index(value[origin.layer]))
    return found


def _types(key: str, values: list[Any], origins: Sequence[LayerOrigin]) -> list[Any]:
    spread = [[kind for kinds, count in value for kind in kinds * count] for value in values]
    return [[[own[origin.layer] for own, origin in zip(spread, origins, strict=True)], 1]]


def _leading(key: str, values: list[Any], origins: Sequence[LayerOrigin]) -> int | None:
    is_early = [origin.layer < value for value, origin in zip(values, origins, strict=True)]
    count = is_early.index(False) if False in is_early else len(is_early)
    if all(is_early) and values[0] > origins[0].num_layers:
        return int(values[0])  # a bound that no layer reaches
    return None if any(is_early[count:]) else count


def _trailing(key: str, values: list[Any], origins: Sequence[LayerOrigin]) -> int | None:
    is_late = [
        origin.layer >= origin.num_layers - value
        for value, origin in zip(values, origins, strict=True)
    ]
    count = is_late[::-1].index(False) if False in is_late else len(is_late)
    return None if any(is_late[: len(is_late) - count]) else count


def _last(key: str, values: list[Any], origins: Sequence[LayerOrigin]) -> int | None:
    counts = [v % o.num_layers + 1 for v, o in zip(values, origins, strict=True)]
    found = _leading(key, counts, origins)
    return None if found is None else found - 1


def _period(key: str, values: list[Any], origins: Sequence[LayerOrigin]) -> int | None:
    period = values[0]
    is_kept = all(
        value == period and (period == 0 or (place - origin.layer) % period == 0)
        for place, (value, origin) in enumerate(zip(values, origins, strict=True))
    )
    return int(period) if is_kept else None
