"""Models of transformers as steps: the model from its config, and its loss, whole or in chunks."""

import inspect
from pathlib import Path
from typing import TYPE_CHECKING, Any

from treadle.core.errors import CheckpointError, SettingsError, UnsupportedModelError
from treadle.model.graph.inputs import one_text_a_row
from treadle.model.graph.tasks import CAUSAL, task_of, texts_of, trained_as
from treadle.model.graph.trace import Loss
from treadle.model.graph.training import PLAIN, Training, arranged
from treadle.model.load import resolve

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PretrainedConfig

__all__ = ["build_model", "chunked", "config_of", "differences", "loss_of", "whole"]

_SCALED_LOGITS = ("final_logit_softcapping", "logit_scale", "logits_scaling")
"""Config keys of architectures that change the logits after the head."""
_TOKENS = ("pad_token_id", "decoder_start_token_id")
"""Tokens that models ask for; which ones they are does not show in a step's memory."""
_NUM_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")


def config_of(
    model: "str | Path | PretrainedConfig", attention: str
) -> "tuple[PretrainedConfig, str]":
    """Return a model's config with dropout off, and a name for it.

    Raises:
        CheckpointError: The folder holds no config that transformers reads.
    """
    import copy

    from transformers import PretrainedConfig as Config

    if isinstance(model, Config):
        config, name = copy.deepcopy(model), str(model.model_type)
    else:
        config, name = _read_config(model), resolve(model).name
    for inner in _configs(config):
        for key, value in _rates(inner).items():
            setattr(inner, key, type(value)(0))
    config._attn_implementation = None if attention == "auto" else attention
    if task_of(config) is CAUSAL:
        config.loss_type = "ForCausalLM"  # what transformers takes anyway, after a warning
    else:
        for key in _TOKENS:
            setattr(config, key, getattr(config, key, None) or 0)
    return config, name


def _read_config(model: str | Path) -> "PretrainedConfig":
    from transformers import AutoConfig

    folder = resolve(model)
    try:
        found: PretrainedConfig = AutoConfig.from_pretrained(folder)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        graph = folder / "graph.json"
        mend = f"give '{graph}'" if graph.exists() else "give a Hugging Face model folder"
        raise CheckpointError(
            f"'{folder}' holds no config.json of a model that transformers knows; {mend}."
        ) from error
    return found


def _configs(config: "PretrainedConfig") -> "list[PretrainedConfig]":
    """Return a config and those inside it."""
    from transformers import PretrainedConfig as Config

    inner = [value for value in vars(config).values() if isinstance(value, Config)]
    return [config, *(found for one in inner for found in _configs(one))]


def _rates(config: "PretrainedConfig") -> dict[str, float]:
    """Return the rates of dropout that are not zero."""
    found = {key: value for key, value in vars(config).items() if "drop" in key}
    return {key: value for key, value in found.items() if isinstance(value, float) and value}


def is_mixture(config: "PretrainedConfig") -> bool:
    """Return whether a config has experts."""
    return any(getattr(config, key, None) for key in _NUM_EXPERTS)


def build_model(config: "PretrainedConfig", training: Training = PLAIN) -> "nn.Module":
    """Return the model of `config` in training mode, with new weights.

    Raises:
        UnsupportedModelError: transformers has no class for it that is trained by a known loss.
    """
    import torch
    import transformers

    name = trained_as(config).class_name
    kind = getattr(transformers, name)
    inner = [one for one in texts_of(config) if isinstance(one, kind.config_class)]
    # As the auto classes do: a class of the text model alone takes the config inside.
    own = inner[0] if inner and not isinstance(config, kind.config_class) else config
    model: nn.Module = kind._from_config(own, dtype=getattr(torch, training.dtype))
    return arranged(model.train(), training)


def differences(model: str | Path, training: Training = PLAIN) -> list[str]:
    """Say in which ways the captured step is not what training the folder's model would run."""
    config = _read_config(model)
    configs = _configs(config)
    rates = {key: rate for one in configs for key, rate in _rates(one).items()}
    found = []
    if rates:
        said = ", ".join(f"{key} {value:g}" for key, value in rates.items())
        found.append(f"Planned without dropout ({said}); training with it keeps masks, and more.")
    if training.lora_rank is not None and any(map(is_mixture, configs)):
        found.append("Experts in one tensor get no factors; linear layers alone do.")
    if training.checkpointing:
        found.append(
            "Checkpointed blocks make again only what their backward pass reads; PyTorch's own "
            "engine holds one or two activations of a block more while it does."
        )
    dtype = str(config.to_dict().get("dtype") or "float32").removeprefix("torch.")
    if dtype != training.dtype:
        found.append(
            f"Planned in {training.dtype}; the config says {dtype} (--dtype {dtype} plans that)."
        )
    task, class_name = trained_as(config)
    if not config.architectures:
        found.append(f"The config names no class: planned as {class_name}, {task.name}.")
    if texts_of(config) and task.has_tokens and not getattr(config, "is_encoder_decoder", False):
        found.append(
            "Planned on rows of text: what sees and hears is held, but does not run or learn."
        )
    return found


def whole(module: "nn.Module", data: "dict[str, Tensor]") -> "Tensor":
    """Return the loss that the model itself computes; of rows of tokens alone, the next token's."""
    labels = data.get("labels", data.get("input_ids"))
    known = {} if "pixel_values" in data else {"use_cache": False}
    if not _takes(module, "use_cache"):
        known = {}
    with one_text_a_row(module):
        loss: Tensor = module(**{**data, "labels": labels}, **known).loss
    return loss


def _takes(module: "nn.Module", name: str) -> bool:
    return name in inspect.signature(module.forward).parameters


def loss_of(chunks: int | None, training: Training) -> Loss:
    """Return the loss of a model as it is trained, whole or in chunks of tokens."""
    compute = whole if chunks is None else chunked(chunks)

    def loss(module: "nn.Module", data: "dict[str, Tensor]") -> "Tensor":
        with training.context():
            return compute(module, data)

    return loss


def chunked(num_chunks: int) -> Loss:
    """Return the same loss, computed in chunks of tokens.

    Raises:
        SettingsError: There is no chunk.
    """
    if num_chunks < 1:
        raise SettingsError(f"chunked_loss = {num_chunks}, expected 1 chunk or more, such as 8.")

    def loss(module: "nn.Module", data: "dict[str, Tensor]") -> "Tensor":
        from treadle.model.graph.chunked_loss import chunked_cross_entropy

        if "labels" in data:
            raise UnsupportedModelError(
                f"{type(module).__name__} is no causal language model, whose loss alone is "
                f"computed in chunks; leave chunked_loss out."
            )
        body, weight = _body_and_head(module)
        with one_text_a_row(module):
            hidden = body(**data, use_cache=False).last_hidden_state[:, :-1]
        labels = data["input_ids"][:, 1:]
        return chunked_cross_entropy(hidden.flatten(0, 1), weight, labels.flatten(), num_chunks)

    return loss


def _body_and_head(module: Any) -> "tuple[nn.Module, Tensor]":  # Any: whatever the user trains
    """Return the model without its head, and the head's matrix."""
    config = getattr(module, "config", None)
    body = getattr(module, getattr(module, "base_model_prefix", "") or "-", None)
    head = module.get_output_embeddings() if hasattr(module, "get_output_embeddings") else None
    if config is None or body is None or head is None or getattr(head, "bias", None) is not None:
        raise UnsupportedModelError(
            f"{type(module).__name__} is no causal language model with a head of one matrix, which "
            f"a chunked loss needs; leave chunked_loss out."
        )
    for key in _SCALED_LOGITS:
        if getattr(config, key, None) not in (None, 1, 1.0):
            raise UnsupportedModelError(
                f"{type(module).__name__} changes its logits by {key}, which the chunked loss does "
                f"not follow; leave chunked_loss out."
            )
    return body, head.weight
