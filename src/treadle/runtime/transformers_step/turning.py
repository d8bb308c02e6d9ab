"""How a model of transformers turns queries and keys to their positions."""

import inspect
from collections.abc import Sequence
from typing import Any

import numpy as np

from treadle.core.errors import UnsupportedModelError
from treadle.runtime.executor import Floats, Ints
from treadle.runtime.probe import Observable, Probe, probe_text
from treadle.runtime.transformers_step.noting import SeenInputs

__all__ = ["require_turns", "turns_of"]

_TOLERANCE = 1e-3


def turns_of(module: Any, positions: Ints) -> list[tuple[Floats, Floats]]:  # Any: a causal LM
    """Return the cosines and sines [positions, dim / 2] by which each layer turns.

    Raises:
        UnsupportedModelError: It has no rotary embedding that says so.
    """
    import torch

    config = module.config.get_text_config()
    rotary = [part for part in module.modules() if _is_rotary(part)]
    if len(rotary) != 1:
        raise UnsupportedModelError(
            f"{type(module).__name__} has {len(rotary)} rotary embeddings, expected one for all "
            f"layers; choose a policy that does not foresee queries (snapkv, key_norm)."
        )
    places = torch.from_numpy(np.asarray(positions, np.int64))[None]
    device = next(module.parameters()).device
    asks_kind = "layer_type" in inspect.signature(rotary[0].forward).parameters
    count = int(config.num_hidden_layers)
    kinds = list(getattr(config, "layer_types", None) or [None] * count) if asks_kind else []
    found = {}
    for kind in set(kinds) or {None}:
        options = {} if kind is None else {"layer_type": kind}
        parts = rotary[0](torch.zeros(1, device=device), places.to(device), **options)
        found[kind] = tuple(
            part[0, :, : part.shape[-1] // 2].float().cpu().numpy() for part in parts
        )
    return [found[kind] for kind in kinds or [None] * count]


def _is_rotary(part: Any) -> bool:  # Any: a module of torch
    own = [name for name, _ in part.named_buffers(recurse=False)]
    asks_places = "position_ids" in inspect.signature(part.forward).parameters
    return asks_places and any(name.endswith("inv_freq") for name in own)


def require_turns(
    executor: Observable, seen: SeenInputs, turns: Sequence[tuple[Floats, Floats]]
) -> None:
    """Check on a few tokens that queries turn as `turns` say: by halves of a head.

    Args:
        executor: Runs the model.
        seen: What its attention reads; filled by the run.
        turns: Of each layer at positions 0, 1, ...

    Raises:
        UnsupportedModelError: They do not.
    """
    count = len(turns[0][0])
    inputs = probe_text(executor, range(count), Probe(None, has_states=False, has_inputs=True))
    assert inputs.inputs is not None
    for layer, (own, (cosine, sine)) in enumerate(zip(inputs.inputs, turns, strict=True)):
        queries = seen.queries(layer, own.turned_queries.shape[-1]).cpu().numpy()
        half = queries.shape[-1] // 2
        first, last = queries[..., :half], queries[..., half:]
        is_right = cosine.shape[-1] == half
        if is_right:
            cosine, sine = cosine[:, None], sine[:, None]
            parts = [first * cosine - last * sine, last * cosine + first * sine]
            turned = np.concatenate(parts, -1)
            is_right = bool(np.abs(turned - own.turned_queries).max() < _TOLERANCE)
        if not is_right:
            raise UnsupportedModelError(
                f"Layer {layer} turns its queries otherwise than by halves of a head; choose a "
                f"policy that does not foresee queries (snapkv, key_norm)."
            )
