"""The config of a LoRA adapter in peft's format: what is read of it, and what is refused."""

import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from treadle.core.checkpoint.described import read_object
from treadle.core.errors import CheckpointError, UnsupportedModelError

__all__ = ["CONFIG_FILE", "matching", "read_config", "require_plain_lora"]

CONFIG_FILE = "adapter_config.json"
# Settings of peft that change what an adapter computes, and what they are called.
_REFUSED = {
    "use_dora": "DoRA",
    "use_qalora": "QALoRA",
    "lora_bias": "a bias in lora_B",
    "layer_replication": "replicated layers",
    "target_parameters": "LoRA of bare parameters",
    "trainable_token_indices": "trained single tokens",
    "alora_invocation_tokens": "activated LoRA",
    "arrow_config": "Arrow routing",
}
# Initialisations that take something off the base; peft adds it when it loads such an adapter.
_INITIALISATIONS = ("pissa", "olora", "corda", "loftq")


def read_config(folder: Path) -> dict[str, Any]:  # Any: JSON values
    """Return an adapter's config.

    Raises:
        CheckpointError: There is none, or a value in it is of another kind.
    """
    file = folder / CONFIG_FILE
    if not file.is_file():
        raise CheckpointError(
            f"{folder} has no {CONFIG_FILE}, so it is no adapter; give the folder that peft saved."
        )
    config = read_object(file)
    if config.get("peft_type") == "LORA":
        config.setdefault("r", 8)  # peft's own
    for key, value in config.items():
        if key == "r" and config.get("peft_type") == "LORA" and not _is_rank(value):
            raise _unusable(file, key, value, "a whole number above 0")
        if key == "lora_alpha" and not _is_number(value):
            raise _unusable(file, key, value, "a number")
        if key in _PATTERNS and not _are_patterns(value, _PATTERNS[key]):
            raise _unusable(file, key, value, "a map of names, or patterns of them, to numbers")
        if key == "modules_to_save" and not _are_names(value):
            raise _unusable(file, key, value, "a list of names")
    return config


def _unusable(file: Path, key: str, value: Any, wanted: str) -> CheckpointError:  # Any: JSON
    return CheckpointError(
        f"{file} says {key}: {value!r}, but {wanted} was expected; save the adapter again."
    )


def _is_number(value: Any) -> bool:  # Any: a JSON value
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and math.isfinite(value)


def _is_rank(value: Any) -> bool:  # Any: a JSON value
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _are_names(value: Any) -> bool:  # Any: a JSON value
    return value is None or (isinstance(value, list) and all(isinstance(v, str) for v in value))


def _are_patterns(value: Any, fits: Callable[[Any], bool]) -> bool:  # Any: a JSON value
    if not isinstance(value, dict | None):
        return False
    try:
        for pattern in value or {}:
            re.compile(pattern)
    except re.error:
        return False
    return all(map(fits, (value or {}).values()))


_PATTERNS = {"rank_pattern": _is_rank, "alpha_pattern": _is_number}


def require_plain_lora(folder: Path, config: Mapping[str, Any]) -> None:  # Any: JSON values
    """Check that an adapter is LoRA and nothing else.

    Raises:
        UnsupportedModelError: It is more, or another kind.
    """
    kind = config.get("peft_type")
    start = str(config.get("init_lora_weights")).lower()
    found = [what for key, what in _REFUSED.items() if config.get(key)]
    found += [kind for kind in _INITIALISATIONS if start.startswith(kind)]
    if kind != "LORA":
        found = [f"an adapter of type {kind!r}"]
    if found:
        raise UnsupportedModelError(
            f"{folder / CONFIG_FILE} says {', '.join(map(str, found))}, but only plain LoRA can be "
            f"applied; merge the adapter into its model with peft and give that model."
        )


def matching(patterns: Mapping[str, Any], module: str, default: Any) -> Any:  # Any: numbers
    """Return the value of the first pattern that fits the module's name or its end."""
    for pattern, value in patterns.items():
        if re.fullmatch(rf"(.*\.)?({pattern})", module):
            return value
    return default
