"""Looks inside transformers' modules: the states that blocks read, the attention of one segment."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from treadle.core.errors import UnsupportedModelError
from treadle.runtime.executor import Floats
from treadle.runtime.probe import LayerInputs, Probe
from treadle.runtime.transformers_step.attention import StepPages
from treadle.runtime.transformers_step.noting import SeenInputs

if TYPE_CHECKING:
    import torch

__all__ = ["inputs_of", "mass_of", "watched"]


def mass_of(step: StepPages, num_slots: int) -> tuple[Floats, ...]:
    """Return what the layers of a step recorded, each filled up to `num_slots`."""
    found = []
    for layer in sorted(step.mass):
        mass = step.mass[layer].float().cpu().numpy()
        missing = num_slots - mass.shape[-1]
        found.append(np.pad(mass, [(0, 0)] * (mass.ndim - 1) + [(0, missing)]))
    return tuple(found)


def inputs_of(step: StepPages, seen: SeenInputs) -> tuple[LayerInputs, ...]:
    """Return what the attention of each layer worked with."""

    def rows_of(part: "torch.Tensor") -> Floats:
        found: Floats = part.float().cpu().numpy().copy()
        return found

    found = []
    for layer in sorted(step.inputs):
        query, key, value, scale = step.inputs[layer]
        own, count, dim = seen.projections[layer], query.shape[1], query.shape[2]
        plain = [rows_of(part).reshape(count, -1, dim) for part in own[:2]]
        turned = [rows_of(part.transpose(0, 1)) for part in (value, query, key)]
        queries, keys = plain if plain else (None, None)
        hidden = rows_of(seen.hidden[layer])
        found.append(LayerInputs(queries, keys, turned[0], hidden, turned[1], turned[2], scale))
    return tuple(found)


@contextmanager
def watched(module: Any, probe: Probe) -> Iterator[list[Floats]]:  # Any: a causal LM
    """Hang hooks on the blocks while the block runs; the list fills with [rows, hidden] each.

    Raises:
        UnsupportedModelError: The model has no list of its blocks.
    """
    states: list[Floats] = []

    def keep(state: "torch.Tensor") -> None:
        states.append(state[0].float().cpu().numpy().copy())

    def before(block: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        keep(args[0] if args else kwargs["hidden_states"])

    def after(block: Any, args: tuple[Any, ...], output: Any) -> None:
        keep(output[0] if isinstance(output, tuple) else output)

    with ExitStack() as hooks:
        blocks = _blocks(module) if probe.has_states else []
        for block in blocks:
            handle = block.register_forward_pre_hook(before, with_kwargs=True)
            hooks.callback(handle.remove)
        if blocks:
            hooks.callback(blocks[-1].register_forward_hook(after).remove)
        yield states


def _blocks(module: Any) -> list[Any]:  # Any: modules of torch
    """Return the decoder blocks: the first list of as many modules as the model has layers."""
    import torch

    num_layers = int(module.config.get_text_config().num_hidden_layers)
    for part in module.modules():
        if isinstance(part, torch.nn.ModuleList) and len(part) == num_layers:
            return list(part)
    raise UnsupportedModelError(
        f"{type(module).__name__} has no list of its {num_layers} blocks, so that their states "
        f"cannot be read; probe with has_states=False."
    )
