"""What the cache must know of a model of transformers, found by running one token through it."""

import math
from typing import TYPE_CHECKING, Any, NamedTuple

from treadle.core.errors import CheckpointError, TreadleError, UnsupportedModelError
from treadle.runtime.executor import ModelShape
from treadle.runtime.logits import require_sound
from treadle.runtime.transformers_step.attention import require_plain
from treadle.runtime.transformers_step.call import call
from treadle.runtime.transformers_step.masks import Masks, noted_masks

if TYPE_CHECKING:
    import torch

__all__ = ["not_paged", "shape_of"]

_NUM_TRIED = 6
"""Tokens of a text on which a model is tried by itself."""


class _Layer(NamedTuple):
    """How a layer calls its attention."""

    kv_heads: int
    dim: int
    window: int | None
    heads: int
    module: Any


class _Caller:
    """Stands in for a step and notes how each layer calls its attention."""

    def __init__(self, masks: Masks) -> None:
        self.layers: dict[int, _Layer] = {}
        self._masks = masks

    def attend(
        self,
        module: Any,
        query: "torch.Tensor",
        key: "torch.Tensor",
        value: "torch.Tensor",
        attention_mask: Any = None,
        sliding_window: int | None = None,
        **others: Any,
    ) -> "torch.Tensor":
        if key.shape[-1] != value.shape[-1] or not getattr(module, "is_causal", True):
            raise UnsupportedModelError(
                f"{type(module).__name__} is not causal, or its keys and values differ in width "
                f"({key.shape[-1]} and {value.shape[-1]}), which pages do not hold; run this model "
                f"with transformers."
            )
        require_plain(module, others)
        if module.layer_idx in self.layers:
            raise UnsupportedModelError(
                f"{type(module).__name__} attends twice in layer {module.layer_idx}, and pages "
                f"hold one set of keys and values a layer; run this model with transformers."
            )
        window = self._masks.window(module, attention_mask, sliding_window)
        self.layers[module.layer_idx] = _Layer(
            key.shape[1], key.shape[-1], window, query.shape[1], module
        )
        return query.transpose(1, 2)


def shape_of(
    module: Any, device: "torch.device", name: str
) -> tuple[ModelShape, tuple[int, ...], tuple[Any, ...]]:  # Any: a causal LM, its attention
    """Find a model's shape, and its layers' query heads and modules, by running one token.

    Raises:
        UnsupportedModelError: Pages do not hold what its layers attend to.
        CheckpointError: It computes no numbers.
    """
    import torch

    config, num_layers = module.config, int(module.config.get_text_config().num_hidden_layers)
    longest = getattr(config, "max_position_embeddings", None)
    if longest is None:
        raise UnsupportedModelError(
            f"The config of {type(module).__name__} has no max_position_embeddings, so that nobody "
            f"knows where its texts end; run this model with transformers."
        )
    caller, one = _Caller(masks := Masks()), torch.zeros(1, dtype=torch.int64, device=device)
    token = noted_masks.set(masks)
    try:
        out = call(module, one, one, caller)
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise not_paged(module, error) from error
    finally:
        noted_masks.reset(token)
    seen = caller.layers
    widths = {layer.dim for layer in seen.values()}
    if sorted(seen) != list(range(num_layers)) or len(widths) != 1:
        raise UnsupportedModelError(
            f"{type(module).__name__} calls transformers' attention registry in {len(seen)} of its "
            f"{num_layers} layers, with heads of widths {sorted(widths)}; pages need all layers "
            f"and one width. Run this model with transformers."
        )
    highest = float(out.logits.max())
    if not math.isfinite(highest):
        require_sound(out.logits[0].float().cpu().numpy(), name, "fp32")
    layers = [seen[layer] for layer in range(num_layers)]
    shape = ModelShape(
        kv_heads=tuple(layer.kv_heads for layer in layers),
        head_dim=widths.pop(),
        vocab_size=int(out.logits.shape[-1]),
        hidden_size=int(config.hidden_size),
        max_positions=int(longest),
        windows=tuple(layer.window for layer in layers),
    )
    heads, modules = [layer.heads for layer in layers], [layer.module for layer in layers]
    return shape, tuple(heads), tuple(modules)


def not_paged(module: Any, error: Exception) -> TreadleError:
    """Return what to say of a model that fails when its attention is replaced, or anyway."""
    import torch

    tokens = torch.zeros(1, _NUM_TRIED, dtype=torch.int64, device=next(module.parameters()).device)
    try:
        with torch.inference_mode():
            module(input_ids=tokens)
    except Exception as own:  # a model raises what it likes
        return CheckpointError(
            f"{type(module).__name__} fails in transformers, too, when it reads {_NUM_TRIED} "
            f"tokens ({type(own).__name__}: {own}); compare config.json with that of the original "
            f"model, or download it again."
        )
    return UnsupportedModelError(
        f"{type(module).__name__} does not run over pages ({type(error).__name__}: {error}); run "
        f"this model with transformers."
    )
