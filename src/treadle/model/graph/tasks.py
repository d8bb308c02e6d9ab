"""What a model of transformers is trained for: its class, its batch and its loss, by its config."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from treadle.core.errors import UnsupportedModelError
from treadle.model.facts.sizes import context_length

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PretrainedConfig

__all__ = [
    "CAUSAL",
    "TASKS",
    "ModelTask",
    "Trained",
    "image_shape",
    "num_positions",
    "task_of",
    "texts_of",
    "trained_as",
]

Batch = Callable[["PretrainedConfig", int, int], "dict[str, Tensor]"]
"""From a config, rows and tokens of a row to the batch."""


class ModelTask(NamedTuple):
    """How models of one kind are trained."""

    name: str
    """With its article."""
    mapping: str
    """transformers' table: type of the config -> class."""
    batch: Batch
    has_tokens: bool = True
    """Whether rows are of tokens; else they are images."""
    is_paired: bool = False
    """Whether an encoder and a decoder are trained together."""
    only: tuple[str, ...] = ()
    """Types of configs, where other types of the table take other batches."""

    def classes(self, config: "PretrainedConfig") -> tuple[str, ...]:
        """Return the names of transformers' classes for the config's type."""
        from transformers.models.auto import modeling_auto

        if self.only and config.model_type not in self.only:
            return ()
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


def _questions(config: "PretrainedConfig", batch: int, seq: int) -> "dict[str, Tensor]":
    return {
        "input_ids": _token_ids(batch, seq),
        "start_positions": _token_ids(batch),
        "end_positions": _token_ids(batch),
    }


def _choices(config: "PretrainedConfig", batch: int, seq: int) -> "dict[str, Tensor]":
    return {"input_ids": _token_ids(batch, _NUM_CHOICES, seq), "labels": _token_ids(batch)}


def _tokens_and_sentences(label: str) -> Batch:
    def batch_of(config: "PretrainedConfig", batch: int, seq: int) -> "dict[str, Tensor]":
        return {**_labelled_tokens(config, batch, seq), label: _token_ids(batch)}

    return batch_of


def _sounds(config: Any, batch: int, seq: int) -> "dict[str, Tensor]":  # Any: Whisper's config
    import torch

    num_frames = 2 * config.max_source_positions  # halved by a convolution
    return {
        "input_features": torch.zeros(batch, config.num_mel_bins, num_frames),
        "labels": _token_ids(batch, seq),
    }


def image_shape(config: "PretrainedConfig") -> tuple[int, int, int]:
    """Return channels, height and width of the images that a model sees (224 if it says none)."""
    inner: Any = getattr(config, "vision_config", config)
    size = getattr(inner, "image_size", None) or _IMAGE_SIZE
    height, width = (size, size) if isinstance(size, int) else (int(size[0]), int(size[-1]))
    return int(getattr(inner, "num_channels", 3)), height, width


def num_positions(config: "PretrainedConfig") -> int | None:
    """Return how many tokens a row may have at most; None where the config does not say.

    Rotary factors may stretch what a config says (`context_length`).
    """
    for inner in (config, *texts_of(config)):
        said = {key: getattr(inner, key, None) for key in _POSITIONS}
        stretched = context_length({**inner.to_dict(), **said})
        found = [n for n in {**said, _POSITIONS[0]: stretched}.values() if isinstance(n, int)]
        if found and min(found) > 1:
            return min(found)
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


_POSITIONS = (
    "max_position_embeddings",
    "max_target_positions",
    "max_encoder_position_embeddings",
    "max_decoder_position_embeddings",
)
"""Names of a row's most tokens: the usual one, Whisper's, and LED's."""
_IMAGE_SIZE = 224
_NUM_CHOICES = 4
"""Answers to choose from, of a row: as many as SWAG has."""

CAUSAL = ModelTask("a causal language model", "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES", _texts)
TASKS = (
    ModelTask(
        "an encoder-decoder",
        "MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES",
        _labelled_tokens,
        is_paired=True,
    ),
    ModelTask(
        "a model from speech to text, on sounds of full length",
        "MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING_NAMES",
        _sounds,
        is_paired=True,
        only=("whisper",),
    ),
    CAUSAL,
    ModelTask(
        "a language model with other towers, on rows of text",
        "MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES",
        _texts,
    ),
    ModelTask("a masked language model", "MODEL_FOR_MASKED_LM_MAPPING_NAMES", _labelled_tokens),
    ModelTask(
        "an image classifier",
        "MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES",
        _labelled_images,
        has_tokens=False,
    ),
    ModelTask(
        "a text classifier", "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES", _labelled_texts
    ),
    ModelTask(
        "a token classifier", "MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES", _labelled_tokens
    ),
    ModelTask(
        "a model that answers from texts", "MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES", _questions
    ),
    ModelTask(
        f"a model that chooses one of {_NUM_CHOICES} texts",
        "MODEL_FOR_MULTIPLE_CHOICE_MAPPING_NAMES",
        _choices,
    ),
    ModelTask(
        "a judge of next sentences",
        "MODEL_FOR_NEXT_SENTENCE_PREDICTION_MAPPING_NAMES",
        _labelled_texts,
    ),
    ModelTask(
        "a model of masked tokens and next sentences",
        "MODEL_FOR_PRETRAINING_MAPPING_NAMES",
        _tokens_and_sentences("next_sentence_label"),
        only=("bert", "big_bird", "ernie", "fnet", "megatron-bert", "mobilebert"),
    ),
    ModelTask(
        "a model of masked tokens and the order of sentences",
        "MODEL_FOR_PRETRAINING_MAPPING_NAMES",
        _tokens_and_sentences("sentence_order_label"),
        only=("albert",),
    ),
    ModelTask(
        "a model that finds replaced tokens",
        "MODEL_FOR_PRETRAINING_MAPPING_NAMES",
        _labelled_tokens,
        only=("electra", "funnel"),
    ),
)
"""In the order in which they are tried for a config that names no class."""


class Trained(NamedTuple):
    """What is planned for a config."""

    task: ModelTask
    class_name: str
    """transformers' class, which is the one that the config names if it names any."""


def task_of(config: "PretrainedConfig") -> ModelTask:
    """Return the task of `trained_as`."""
    return trained_as(config).task


def trained_as(config: "PretrainedConfig") -> Trained:
    """Return the class that the config names, or else the first one for its type, and its task.

    Raises:
        UnsupportedModelError: The class is none of these tasks, or the type has none.
    """
    names = list(config.architectures or ())
    for name in names:
        for task in TASKS:
            if name in task.classes(config):
                return Trained(task, name)
    is_paired = bool(getattr(config, "is_encoder_decoder", False))
    ordered = sorted(TASKS, key=lambda task: task.is_paired != is_paired)
    known = [Trained(task, name) for task in ordered for name in task.classes(config)]
    if known and not names:
        return known[0]
    raise _refusal(config, list(dict.fromkeys(one.class_name for one in known)))


def _refusal(config: "PretrainedConfig", known: list[str]) -> UnsupportedModelError:
    names = ", ".join(config.architectures or ())
    what = f"the class {names} of the config" if names else f"the type '{config.model_type}'"
    by_hand = (
        "capture it by treadle.model.graph.capture.capture_step with its batch and its loss, and "
        "plan the graph.json that save_graph writes"
    )
    if not known:
        return UnsupportedModelError(
            f"A step of {what} is not planned from a folder: transformers has no class for the "
            f"type '{config.model_type}' as {', '.join(task.name for task in TASKS)}; {by_hand}."
        )
    return UnsupportedModelError(
        f"A step of {what} is not planned from a folder, since no loss is known for it; write one "
        f"of {', '.join(known)} as `architectures` into its config.json, or {by_hand}."
    )
