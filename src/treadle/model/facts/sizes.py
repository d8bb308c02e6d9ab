"""Numbers of a config, whatever the architecture calls them, and the text model in a wrapper."""

import json
import math
from functools import lru_cache
from typing import Any

from treadle.core.checkpoint.described import NONUNIFORM
from treadle.core.errors import CheckpointError, SettingsError, UnsupportedModelError
from treadle.core.registry import near
from treadle.model.facts.architectures import ARCHITECTURES, Architecture

__all__ = [
    "NONUNIFORM",
    "Config",
    "base_config",
    "context_length",
    "facts_of",
    "head_dim",
    "hidden_size",
    "is_wrapper",
    "num_experts",
    "num_heads",
    "num_kv_heads",
    "num_layers",
    "number",
    "position_notes",
    "require_positions",
    "spelt_key",
    "text_config",
    "whole_config",
    "with_text",
]

Config = dict[str, Any]  # Any: JSON values of config.json


class _Inner(dict[str, Any]):  # Any: JSON values
    """The text model's part of a wrapper's config: messages say so."""


_OLD_WORDS = {
    "n_embd": "hidden_size",
    "n_head": "num_attention_heads",
    "n_layer": "num_hidden_layers",
}


def base_config(config: Config) -> Config:
    """Return the config of the language model's architecture, with all numbers that facts read.

    It is unwrapped where the folder is a non-uniform one or a wrapper around a text model (with
    vision or audio towers), and completed where it leaves a number to its class's default.
    """
    return _completed(text_config(config))


def spelt_key(config: Config, key: str) -> str:
    """Return a key of a language model's config as config.json has it: inside of a wrapper's."""
    return f"text_config.{key}" if isinstance(config, _Inner) else key


def whole_config(config: Config) -> Config:
    """Return the config of the whole architecture, unwrapped where the folder is non-uniform."""
    base: Config = config["treadle_base"] if config.get("model_type") == NONUNIFORM else config
    return base


def is_wrapper(config: Config) -> bool:
    """Say whether a config describes a text model with other towers around it."""
    whole = whole_config(config)
    return text_config(whole) is not whole


def text_config(config: Config) -> Config:
    """Return the part of a config that describes the language model, as it is written.

    A wrapper's own dtype, tie and quantization speak for its text model where that says nothing.
    """
    config = whole_config(config)
    inner = config.get("text_config")
    if not isinstance(inner, dict) or str(config.get("model_type", "")) in ARCHITECTURES:
        return config
    shared = ("tie_word_embeddings", "quantization_config", "dtype", "torch_dtype", "auto_map")
    found = _Inner({key: config[key] for key in shared if key in config} | inner)
    if not found.get("model_type"):  # as its class has it
        defaults = _defaults(json.dumps(config, sort_keys=True, default=str)).get("text_config")
        found["model_type"] = (defaults or {}).get("model_type", "")
    if config.get("quantization_config"):  # of all towers
        found["quantization_config"] = config["quantization_config"]
    return found


def with_text(config: Config, changes: Config) -> Config:
    """Return a config with other values in the part that describes the language model."""
    inner = config.get("text_config")
    if text_config(config) is config:
        return {**config, **changes}
    return {**config, "text_config": {**(inner or {}), **changes}}


def _completed(config: Config) -> Config:
    """Return the config with the numbers that it leaves to its class, which knows its defaults."""
    architecture = ARCHITECTURES.get(str(config.get("model_type", "")))
    if architecture is None or config.get("auto_map"):
        return config
    read = {architecture.kv_heads, architecture.head_width, *architecture.neurons[:1]} - {""}
    read |= {"hidden_size", "num_attention_heads", "num_hidden_layers", "vocab_size"}
    if not any(config.get(key) is not None for key in architecture.num_experts):
        read |= set(architecture.num_experts[:1])
    said = {_OLD_WORDS.get(key, key) for key, value in config.items() if value is not None}
    lacking = read - said
    if not lacking:
        return config
    defaults = _defaults(json.dumps(config, sort_keys=True, default=str))
    filled = {k: v for k, v in defaults.items() if k in lacking and v is not None}
    return type(config)(config | filled)


@lru_cache(maxsize=32)
def _defaults(config: str) -> Config:
    """Return what the config's class makes of it; nothing, where the class refuses it."""
    from transformers import AutoConfig

    fields: Config = json.loads(config)
    model_type = fields.pop("model_type")
    try:
        made: Config = AutoConfig.for_model(model_type, **fields).to_dict()
    except Exception:  # a damaged config is refused with its reason where the model is built
        return {}
    return made


def facts_of(config: Config) -> Architecture:
    """Return the facts of a model's architecture.

    Raises:
        UnsupportedModelError: There are none; the message says how to add them.
    """
    model_type = str(config.get("model_type", ""))
    if model_type not in ARCHITECTURES:
        raise UnsupportedModelError(
            f"config.json says {spelt_key(config, 'model_type')} '{model_type}', for which treadle "
            f"has no facts. {near(model_type, ARCHITECTURES)} To add an architecture, write its "
            f"line in ARCHITECTURES of treadle/model/facts/architectures.py and a config in "
            f"treadle/model/tiny.py; the conformance tests then cover it."
        )
    return ARCHITECTURES[model_type]


def number(config: Config, *keys: str) -> int:
    """Return the first of the keys that the config has, a positive whole number.

    Raises:
        UnsupportedModelError: It has none.
        CheckpointError: It has another value there.
    """
    for key in keys:
        value = config.get(key)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise CheckpointError(
                f"config.json says {spelt_key(config, key)}: {value!r}, but a positive whole "
                f"number was expected; download it again."
            )
        return value
    raise UnsupportedModelError(
        f"config.json of model_type '{config.get('model_type')}' has none of the keys "
        f"{', '.join(spelt_key(config, key) for key in keys)}; add the one that this architecture "
        f"uses."
    )


def num_layers(config: Config) -> int:
    """Return the number of decoder blocks."""
    return number(config, "num_hidden_layers", "n_layer")


def num_heads(config: Config) -> int:
    """Return the number of query heads."""
    return number(config, "num_attention_heads", "n_head")


def num_kv_heads(config: Config) -> int:
    """Return the number of key-value heads."""
    facts = facts_of(config)
    return number(config, facts.kv_heads) if config.get(facts.kv_heads) else num_heads(config)


def hidden_size(config: Config) -> int:
    """Return the width of the residual stream."""
    return number(config, "hidden_size", "n_embd")


def head_dim(config: Config) -> int:
    """Return the width of one head."""
    facts = facts_of(config)
    if facts.head_width and config.get(facts.head_width):
        return number(config, facts.head_width)
    return hidden_size(config) // num_heads(config)


def context_length(config: Config) -> int | None:
    """Return how many tokens a text may have, as a config says; None where it does not.

    Where rotary factors stretch the length of a first training, some configs state the stretched
    one as max_position_embeddings, and others the first. Of types whose parameters tell which
    (dynamic; yarn that names its first length) the stretched one counts.
    """
    said = config.get("max_position_embeddings")
    if not isinstance(said, int):
        return None
    rope = config.get("rope_parameters") or config.get("rope_scaling")
    if not isinstance(rope, dict):
        return said
    kinds = {name: part for name, part in rope.items() if isinstance(part, dict)}
    # Layers that slide do not see as far.
    far = [part for name, part in kinds.items() if not name.startswith("sliding")]
    return min(_stretched(part, said) for part in far or [*kinds.values()] or [rope])


def _stretched(parameters: Config, said: int) -> int:
    """Return the tokens that rotary parameters are made for, at least `said`."""
    kind = parameters.get("rope_type") or parameters.get("type")
    factor, first = parameters.get("factor"), parameters.get("original_max_position_embeddings")
    if not isinstance(factor, int | float) or not 1 <= factor < math.inf:
        return said
    if kind == "dynamic" and not parameters.get("alpha"):  # with an alpha (Hunyuan) it is not
        return max(said, int((first if isinstance(first, int) else said) * factor))
    return max(said, int(first * factor)) if kind == "yarn" and isinstance(first, int) else said


def position_notes(config: Config, num_tokens: int) -> list[str]:
    """Return what a reader should know of windows of `num_tokens`: nothing where they fit."""
    said = context_length(config)
    if said is None or num_tokens <= said or facts_of(config).has_learned_positions:
        return []
    is_stretched = said != config["max_position_embeddings"]
    of = "max_position_embeddings" + (", stretched by its rotary factor" if is_stretched else "")
    return [
        f"Windows of {num_tokens} tokens are longer than the model's {said} positions "
        f"({of}): what it computes behind them it was not trained for."
    ]


def num_experts(config: Config) -> int:
    """Return the number of experts of a mixture's blocks."""
    return number(config, *facts_of(config).num_experts)


def require_positions(config: Config, num_tokens: int) -> None:
    """Check that a window of `num_tokens` fits a table of learned positions.

    Raises:
        SettingsError: It does not.
    """
    if not facts_of(config).has_learned_positions:
        return
    num_positions = number(config, "max_position_embeddings", "n_positions")
    if num_tokens > num_positions:
        raise SettingsError(
            f"A window of {num_tokens} tokens does not fit a model of {num_positions} positions; "
            f"use shorter windows."
        )
