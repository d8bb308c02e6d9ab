"""The small JSON files of a model folder: objects, or a named error."""

import json
from pathlib import Path
from typing import Any

from treadle.core.errors import CheckpointError, UnsupportedModelError
from treadle.core.mistaken import mistaken

__all__ = ["NONUNIFORM", "ROUTED", "read_config", "read_object", "refuse_bundle", "says_bundle"]

_OBJECTS = ("quantization_config", "text_config", "treadle_base", "vision_config", "auto_map")
"""Keys of config.json that hold objects, where they hold anything."""
NONUNIFORM = "treadle_nonuniform"
"""`model_type` of a folder whose blocks differ in width: foreign loaders refuse it by name."""
ROUTED = "treadle_routed"
"""`model_type` of a bundle of several models, of which a router chooses one."""


def read_object(file: Path) -> dict[str, Any]:
    """Return the JSON object in a file.

    Raises:
        CheckpointError: The file cannot be read, or holds something else.
    """
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(
            f"{file} cannot be read ({error.strerror}); copy it again."
        ) from error
    except (ValueError, RecursionError) as error:
        what = mistaken(file) or f"not JSON ({error}); copy or download it again"
        raise CheckpointError(f"{file} is {what}.") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{file} holds no JSON object; copy or download it again.")
    return value


def read_config(file: Path) -> dict[str, Any]:
    """Return a model's config, whose parts that programs look into are objects.

    Raises:
        CheckpointError: It is none.
    """
    config = read_object(file)
    for key in _OBJECTS:
        value = config.get(key)
        if value is not None and not isinstance(value, dict):
            raise CheckpointError(
                f"{file} says {key}: {value!r}, but a JSON object was expected; download it again, "
                f"or remove the key."
            )
    if config.get("quantization_config") == {}:
        raise CheckpointError(
            f"{file} has an empty quantization_config, which says neither that the weights are "
            f"floats nor how they are quantised; remove the key if they are floats."
        )
    classes = config.get("architectures")
    if not isinstance(classes, list | str | None):
        raise CheckpointError(
            f"{file} says architectures: {classes!r}, but a list of class names was expected; "
            f"correct it."
        )
    for key in ("dtype", "torch_dtype"):
        if not isinstance(config.get(key), str | dict | None):
            raise CheckpointError(
                f"{file} says {key}: {config[key]!r}, but a name such as bfloat16 was expected; "
                f"correct it."
            )
    model_type = config.get("model_type")
    if model_type is not None and not isinstance(model_type, str):
        raise CheckpointError(
            f"{file} says model_type: {model_type!r}, but a name was expected; download it again."
        )
    if model_type == NONUNIFORM and not config.get("treadle_base"):
        raise CheckpointError(
            f"{file} says {NONUNIFORM}, but has no treadle_base, the config of the architecture; "
            f"prune the dense model again."
        )
    return config


def says_bundle(folder: Path) -> bool:
    """Say whether the config of a folder, if it has one, says that it is a bundle of models."""
    file = folder / "config.json"
    return file.is_file() and read_object(file).get("model_type") == ROUTED


def refuse_bundle(folder: Path) -> None:
    """Refuse a folder that holds several models where one is wanted.

    Raises:
        UnsupportedModelError: It does; the message names one of them.
    """
    if not says_bundle(folder):
        return
    config = read_object(folder / "config.json")
    experts = config.get("treadle_experts")
    first = experts[0] if isinstance(experts, list) and experts else "NAME"
    mend = f"give one of its models, such as {folder}/experts/{first}"
    if config.get("treadle_level") == "layers":
        mend = f"give {folder}/dense, or one expert (treadle merge materialise {folder} OUT)"
    raise UnsupportedModelError(
        f"'{folder}' is a bundle of several models, which only answers prompts (LLM, treadle chat, "
        f"treadle serve, treadle evaluate exact); {mend}."
    )
