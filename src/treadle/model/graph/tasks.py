"""What a model of transformers is trained for: its class, its batch and its loss, by its config."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from treadle.core.errors import UnsupportedModelError

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PretrainedConfig

__all__ = ["CAUSAL", "TASKS", "ModelTask", "image_shape", "num_positions", "task_of", "texts_of"]

Batch = Callable[["PretrainedConfig", int, int], "dict[str, Tensor]"]
"""From a config, rows and tokens of a row to the batch."""


class ModelTask(NamedTuple):
    """How models of one kind are trained."""

    name: str
    """With its article."""
    auto: str
    """transformers' class that makes the model from its config."""
    mapping: str
    """Its table: type of the config -> class."""
    batch: Batch
    has_tokens: bool = True
    """Whether rows are of tokens; else they are images."""

    def classes(self, config: "PretrainedConfig") -> tuple[str, ...]:
        """Return the names of transformers' classes for the config's type."""
        from transformers.models.auto import modeling_auto

        found = getattr(modeling_auto, self.mapping).get(config.model_type)
        return (found,) if isinstance(found, str) else tuple(found or ())


def _token_ids(batch: int, *seq: int) -> "Tensor":
    import torch

    return torch.zeros(batch, *seq, dtype=torch.long)


def _texts(config: "PretrainedConfig", batch: int, seq: int) -> "dict[str, Tensor]":
    return {"input_ids": _token_ids(batch, seq)}


def _labelled_tokens(config: "PretrainedConfig", batch: int, seq: int) -> "dict[str, Tensor]":
    return {"input_ids": _token_ids(batch, seq), "labels": _token_ids(batch, seq)}


def _labelled_texts(config: "PretrainedConfig", batch: int, seq: int) -> "dict[str, Tensor]":
    return {"input_ids": _token_ids(batch, seq), "labels": _token_ids(batch)}


def _labelled_images(config: "PretrainedConfig", batch: int, seq: int) -> "dict[str, Tensor]":
    import torch

    return {
        "pixel_values": torch.zeros(batch, *image_shape(config)),
        "labels": _token_ids(batch),
    }


def image_shape(config: "PretrainedConfig") -> tuple[int, int, int]:
    """Return channels, height and width of the images that a model sees (224 if it says none)."""
    inner: Any = getattr(config, "vision_config", config)
    size = getattr(inner, "image_size", None) or _IMAGE_SIZE
    height, width = (size, size) if isinstance(size, int) else (int(size[0]), int(size[-1]))
    return int(getattr(inner, "num_channels", 3)), height, width


def num_positions(config: "PretrainedConfig") -> int | None:
    """Return how many tokens a row may have at most; None where the config does not say."""
    for inner in (config, *texts_of(config)):
        most = getattr(inner, "max_position_embeddings", None)
        if isinstance(most, int) and most > 1:
            return most
    return None


def texts_of(config: "PretrainedConfig") -> "list[PretrainedConfig]":
    """Return the configs of language models inside a config, those that make text first."""
    found = []
    for is_decoder in (True, False):
        try:
            found.append(config.get_text_config(decoder=is_decoder))
        except ValueError:  # it has several
            continue
    return [one for one in found if one is not config]


_IMAGE_SIZE = 224

CAUSAL = ModelTask(
    "a causal language model", "AutoModelForCausalLM", "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES", _texts
)
TASKS = (
    ModelTask(
        "an encoder-decoder",
        "AutoModelForSeq2SeqLM",
        "MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES",
        _labelled_tokens,
    ),
    CAUSAL,
    ModelTask(
        "a language model with other towers, on rows of text",
        "AutoModelForImageTextToText",
        "MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES",
        _texts,
    ),
    ModelTask(
        "a masked language model",
        "AutoModelForMaskedLM",
        "MODEL_FOR_MASKED_LM_MAPPING_NAMES",
        _labelled_tokens,
    ),
    ModelTask(
        "an image classifier",
        "AutoModelForImageClassification",
        "MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES",
        _labelled_images,
        has_tokens=False,
    ),
    ModelTask(
        "a text classifier",
        "AutoModelForSequenceClassification",
        "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES",
        _labelled_texts,
    ),
    ModelTask(
        "a token classifier",
        "AutoModelForTokenClassification",
        "MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES",
        _labelled_tokens,
    ),
)
"""In the order in which they are tried for a config that names no class of any."""


def task_of(config: "PretrainedConfig") -> ModelTask:
    """Return the task whose class the config names, or else the first one for its type.

    Raises:
        UnsupportedModelError: transformers has no class of these for the type.
    """
    for name in config.architectures or ():
        for task in TASKS:
            if name in task.classes(config):
                return task
    is_paired = bool(getattr(config, "is_encoder_decoder", False))
    for task in TASKS if is_paired else (*TASKS[1:], TASKS[0]):
        if task.classes(config):
            return task
    raise UnsupportedModelError(
        f"transformers has no class for the type '{config.model_type}' as "
        f"{', '.join(task.name for task in TASKS)}, and steps of these are planned from a folder; "
        f"capture another module by treadle.model.graph.capture.capture_step, and plan the "
        f"graph.json that save_graph writes."
    )
