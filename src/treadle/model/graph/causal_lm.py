"""Causal language models as steps: the model from its config, and its loss, whole or in chunks."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from treadle.core.errors import CheckpointError, UnsupportedModelError
from treadle.model.graph.trace import Loss
from treadle.model.load import resolve

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PretrainedConfig

__all__ = ["build_model", "chunked", "config_of", "differences", "whole"]

_SCALED_LOGITS = ("final_logit_softcapping", "logit_scale", "logits_scaling")
"""Config keys of architectures that change the logits after the head."""
_NUM_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")


def config_of(
    model: "str | Path | PretrainedConfig", attention: str
) -> "tuple[PretrainedConfig, str]":
    """Return a model's config with dropout off, and a name for it."""
    import copy

    from transformers import AutoConfig
    from transformers import PretrainedConfig as Config

    if isinstance(model, Config):
        config, name = copy.deepcopy(model), str(model.model_type)
    else:
        folder = resolve(model)
        try:
            config, name = AutoConfig.from_pretrained(folder), folder.name
        except (OSError, ValueError) as error:
            graph = folder / "graph.json"
            mend = f"give '{graph}'" if graph.exists() else "give a Hugging Face model folder"
            raise CheckpointError(
                f"'{folder}' holds no config.json of a model that transformers knows; {mend}."
            ) from error
    for key, value in config.to_dict().items():
        if "drop" in key and isinstance(value, float):
            setattr(config, key, 0.0)
    config._attn_implementation = None if attention == "auto" else attention
    config.loss_type = "ForCausalLM"  # what transformers takes anyway, after a warning
    if any(getattr(config, key, None) for key in _NUM_EXPERTS):
        # The other forms loop over the experts that got tokens, or group by their counts: both
        # depend on data.
        config._experts_implementation = "batched_mm"
    return config, name


def build_model(config: "PretrainedConfig") -> "nn.Module":
    """Return the model of `config` in float32 and training mode, with new weights."""
    import torch
    from transformers import AutoModelForCausalLM

    try:
        model: nn.Module = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    except ValueError as error:
        raise UnsupportedModelError(
            f"transformers has no causal language model of the type '{config.model_type}', and "
            f"steps of these alone are captured from a folder; use capture_step for other modules."
        ) from error
    return model.train()


def differences(model: str | Path) -> list[str]:
    """Say in which ways the captured step is not what training the folder's model would run."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(resolve(model))
    found, asked = [], config.to_dict()
    rates = {k: v for k, v in asked.items() if "drop" in k and isinstance(v, float) and v}
    if rates:
        said = ", ".join(f"{key} {value:g}" for key, value in rates.items())
        found.append(f"Planned without dropout ({said}); training with it keeps masks, and more.")
    if any(getattr(config, key, None) for key in _NUM_EXPERTS):
        found.append(
            "Planned with experts as one batched product for all tokens, because the other forms "
            "depend on the data; they take much less memory, so that what fits here fits there."
        )
    dtype = str(asked.get("dtype") or "float32").removeprefix("torch.")
    if dtype != "float32":
        found.append(f"Planned in float32; the config says {dtype}.")
    names = asked.get("architectures") or []
    if names and not any("Causal" in name or "LMHead" in name for name in names):
        found.append(f"Planned as a causal language model; the config says {', '.join(names)}.")
    return found


def whole(module: "nn.Module", data: "dict[str, Tensor]") -> "Tensor":
    """Return the mean loss of predicting each token from those before it, by the model itself."""
    with _one_text_a_row():
        loss: Tensor = module(**data, labels=data["input_ids"], use_cache=False).loss
    return loss


def chunked(num_chunks: int) -> Loss:
    """Return the same loss, computed in chunks of tokens."""

    def loss(module: "nn.Module", data: "dict[str, Tensor]") -> "Tensor":
        from treadle.model.graph.chunked_loss import chunked_cross_entropy

        body, weight = _body_and_head(module)
        with _one_text_a_row():
            hidden = body(**data, use_cache=False).last_hidden_state[:, :-1]
        labels = data["input_ids"][:, 1:]
        return chunked_cross_entropy(hidden.flatten(0, 1), weight, labels.flatten(), num_chunks)

    return loss


@contextmanager
def _one_text_a_row() -> Iterator[None]:
    """Tell transformers that no row holds several texts.

    It reads that off the positions, which fake tensors do not have, and would otherwise build
    masks that the eager step does without.
    """
    from transformers import masking_utils

    reads_positions = masking_utils.find_packed_sequence_indices
    masking_utils.find_packed_sequence_indices = lambda _: None
    try:
        yield
    finally:
        masking_utils.find_packed_sequence_indices = reads_positions


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
