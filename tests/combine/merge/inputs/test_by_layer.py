"""Keys that speak by layer: each in its own way, and every one that transformers knows."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from treadle.combine.merge.inputs.by_layer import (
    CYCLES,
    INDICES,
    LEADING,
    LISTS,
    PERIODS,
    SOURCES,
    TAPS,
    TRAILING,
    LayerOrigin,
    moved,
)


def at(config: dict[str, Any], layers: list[int]) -> tuple[dict[str, Any], list[str]]:
    return moved(config, [LayerOrigin(config, layer, 6) for layer in layers])


@pytest.mark.parametrize(
    ("config", "layers", "changes"),
    [
        ({"layer_types": list("abcdef")}, [5, 0, 0], {"layer_types": ["f", "a", "a"]}),
        ({"layer_types": list("abcdefm")}, [1, 2], {"layer_types": ["b", "c", "m"]}),
        ({"hybrid_override_pattern": "M-M*-M"}, [3, 1], {"hybrid_override_pattern": "*-"}),
        ({"block_types": ["r", "r", "a"]}, [1, 2, 5], {"block_types": ["r", "a", "a"]}),
        ({"cross_attention_layers": [1, 4]}, [4, 0, 1, 1], {"cross_attention_layers": [0, 2, 3]}),
        ({"mlp_only_layers": [-1]}, [5, 0], {"mlp_only_layers": [0]}),
        ({"a": {"kda_layers": [1, 2]}}, [2, 1], {"a": {"kda_layers": [2]}}),
        ({"kv_source_layers": [0, 0, 2, 2, 4, 4]}, [2, 3, 4], {"kv_source_layers": [0, 0, 2]}),
        ({"deepstack_visual_indexes": [1, 4]}, [0, 1, 4], {"deepstack_visual_indexes": [1, 2]}),
        ({"first_k_dense_replace": 2}, [0, 3, 4], {"first_k_dense_replace": 1}),
        ({"num_kv_shared_layers": 3}, [0, 1, 5], {"num_kv_shared_layers": 1}),
        ({"max_window_layers": 28}, [2, 0], {}),
        ({"decoder_sparse_step": 2}, [2, 3, 0, 1], {}),
        ({"moe_layer_end_index": 3}, [0, 1, 5], {"moe_layer_end_index": 1}),
        (
            {"per_layer_config": {"1": "x", "4": "y"}},
            [4, 0, 1],
            {"per_layer_config": {"0": "y", "2": "x"}},
        ),
        ({"eos_token_id": [1, 2, 3, 4, 5, 6]}, [0, 1], {}),
        ({"unheard_layer_kinds": [1, 2, 3, 4, 5, 6]}, [5, 1], {"unheard_layer_kinds": [6, 2]}),
        ({"text_config": {"layer_types": list("abcdef")}}, [1], {}),
        ({"attention_types": [[["g", "l"], 3]]}, [1, 0], {"attention_types": [[["l", "g"], 1]]}),
    ],
)
def test_each_kind_of_key_follows_the_layers(config, layers, changes) -> None:
    assert at(config, layers) == (changes, [])


@pytest.mark.parametrize(
    ("config", "layers"),
    [
        ({"first_k_dense_replace": 2}, [3, 0]),
        ({"num_kv_shared_layers": 2}, [5, 0]),
        ({"deepstack_visual_indexes": [1, 4]}, [0, 1]),
        ({"deepstack_visual_indexes": [1, 4]}, [1, 1, 4]),
        ({"deepstack_visual_indexes": [1, 4]}, [4, 1]),
        ({"decoder_sparse_step": 2}, [1, 2]),
        ({"kv_source_layers": [0, 0, 2, 2, 4, 4]}, [1, 0]),
    ],
)
def test_what_a_key_cannot_say_is_told(config, layers) -> None:
    assert at(config, layers) == ({}, list(config))


def test_each_layer_takes_the_word_of_its_own_model() -> None:
    first, second = {"layer_types": ["a", "b"]}, {"layer_types": ["c", "d", "e"]}
    found = moved(first, [LayerOrigin(first, 1, 2), LayerOrigin(second, 2, 3)])
    assert found == ({"layer_types": ["b", "e"]}, [])


TABLE = LISTS | CYCLES | INDICES | TAPS | SOURCES | LEADING | TRAILING | PERIODS
LAYERWISE = re.compile(r"layer|block|pattern|period|freq|interval|step$|_idxs|_index(es)?$")
DEPTHS = ("num_hidden_layers", "n_layer", "num_layers", "n_layers", "num_decoder_layers")
# Not of a language model's layers: of stages of an image model, of another model's layers, of what
# is predicted behind the last layer; or one word for all layers.
ELSEWHERE = re.compile(
    r"mtp_.*|.*(stage|conv|resblock|encode_proj|out_(features|indices)|depths|dilation|kernel).*"
    r"|spatial_target_layers|target_layer_ids|deepstack_layer_map|cat_hidden_layers|delay_pattern"
    r"|look_(ahead|backward)_layers|layer_list_out_channels|block_(configs|sizes|repeats|dilations)"
    r"|num_block_repeats|n_attn_blocks|summary_idxs|num_heads|ngram_.*|encoder_projection_indices|freq_bands|.*_token_ind.*|.*codebook.*|feature_layers?"
    r"|vision_feature_layer|hidden_states_layers|moe_num_shared_experts|.*window_sizes|indexer_.*"
)


def configs() -> Iterator[tuple[str, Mapping[str, Any]]]:
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING, CONFIG_MAPPING_NAMES

    def inside(config: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
        yield config
        for value in config.values():
            if isinstance(value, Mapping):
                yield from inside(value)

    for name in CONFIG_MAPPING_NAMES:
        try:
            found = CONFIG_MAPPING[name]().to_dict()
        except Exception:  # some want arguments, some packages that are not there
            continue
        for one in inside(found):
            yield name, one


@pytest.mark.slow
def test_the_tables_know_every_list_with_a_value_for_each_layer_in_transformers() -> None:
    unknown: dict[str, str] = {}
    for name, config in configs():
        depths = {config[key] for key in DEPTHS if isinstance(config.get(key), int)}
        for key, value in ((str(key), value) for key, value in config.items()):
            is_layerwise = isinstance(value, list) and value and len(value) in depths - {1, 2, 3, 4}
            is_named = isinstance(value, list) and value and LAYERWISE.search(key)
            known = key in TABLE or ELSEWHERE.fullmatch(key) or key == "attention_types"
            if (is_layerwise or is_named) and not known:
                unknown.setdefault(key, name)
    assert not unknown
