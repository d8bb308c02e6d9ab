"""Heads while they learn: how large they are, how they begin, what they say of tokens."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from treadle.core.seed import torch_stream
from treadle.core.shapes import Float, Tensor
from treadle.model.retaining import GATE_WIDTH, LayerHeads, RetainingHeads
from treadle.runtime.probe import LayerInputs
from treadle.shrink.sparsify.base import HeadDesign

if TYPE_CHECKING:
    import torch

__all__ = [
    "MOST_FRACTION",
    "LayerSize",
    "fresh_layer",
    "mlp_width",
    "read_inputs",
    "retaining",
    "scores_of",
]

MOST_FRACTION = 0.03
"""Of the model's parameters, what an mlp's may be."""
_MULTIPLE = 32
_NUM_SINKS = 16
_SINK_SPREAD = 0.25
_EPSILON = 1e-6


class LayerSize(NamedTuple):
    """The attention of a layer."""

    heads: int
    kv_heads: int
    dim: int
    hidden: int

    def num_inputs(self, design: HeadDesign) -> int:
        """Return how many numbers of a token heads read."""
        is_hidden = design.reads == "hidden"
        return self.hidden if is_hidden else (self.heads + 2 * self.kv_heads) * self.dim


def mlp_width(design: HeadDesign, sizes: Sequence[LayerSize], num_parameters: int) -> int:
    """Return the width of the networks: a share of their inputs, at most 3 % of the model.

    It is a multiple of 32 where there is room for one, and at least 1.
    """
    most_inputs = max(size.num_inputs(design) for size in sizes)
    wanted = -(-round(design.input_fraction * most_inputs) // _MULTIPLE) * _MULTIPLE
    ends = design.has_biases
    of_one = sum(size.num_inputs(design) + size.kv_heads + ends for size in sizes)
    fixed = sum(size.kv_heads for size in sizes) if ends else 0
    affordable = max(1, int((MOST_FRACTION * num_parameters - fixed) // of_one))
    width = min(wanted, design.most_width, affordable)
    return width // _MULTIPLE * _MULTIPLE or width


def fresh_layer(
    design: HeadDesign, size: LayerSize, width: int, seed: int, layer: int
) -> "dict[str, torch.Tensor]":
    """Return the numbers with which a layer's heads begin, by the names of `LayerHeads`."""
    import torch

    inputs = size.num_inputs(design)

    def drawn(name: str, spread: float, *shape: int) -> "torch.Tensor":
        stream = torch_stream(seed, f"heads {layer} {name}")
        return torch.randn(*shape, generator=stream) * spread

    if design.kind == "gate":
        rows = (size.heads + size.kv_heads) * GATE_WIDTH
        return {
            "first": drawn("first", inputs**-0.5, rows, inputs),
            "norms": torch.ones(2, GATE_WIDTH),
            "sinks": drawn("sinks", _SINK_SPREAD, size.kv_heads, _NUM_SINKS, GATE_WIDTH),
            "bias": torch.zeros(size.heads),
        }
    if design.kind == "linear":
        return {
            "first": torch.zeros(size.kv_heads, inputs),
            "first_bias": torch.zeros(size.kv_heads),
        }
    found = {
        "first": drawn("first", inputs**-0.5, width, inputs),
        "second": drawn("second", width**-0.5, size.kv_heads, width),
    }
    if design.has_biases:
        found["first_bias"] = torch.zeros(width)
        found["second_bias"] = torch.zeros(size.kv_heads)
    return found


def read_inputs(design: HeadDesign, layer: LayerInputs, count: int) -> Float[Tensor, "tokens in"]:
    """Return what heads read of the first `count` tokens."""
    import numpy as np
    import torch

    if design.reads == "hidden" or layer.queries is None or layer.keys is None:
        return torch.from_numpy(layer.hidden[:count])
    parts = (layer.queries, layer.keys, layer.values)
    flat = [part[:count].reshape(count, -1) for part in parts]
    return torch.from_numpy(np.concatenate(flat, axis=1))


def scores_of(
    design: HeadDesign, own: "Mapping[str, torch.Tensor]", inputs: Float[Tensor, "tokens in"]
) -> Float[Tensor, "tokens kv_heads"]:
    """Return what a layer's heads say of tokens (see `model.retaining.RetainingHeads`)."""
    from torch.nn import functional

    inner = functional.linear(inputs, own["first"], own.get("first_bias"))
    if design.kind == "linear":
        return inner
    if design.kind == "gate":
        return _gated(own, inner)
    acted = getattr(functional, design.activation)(inner)
    return functional.linear(acted, own["second"], own.get("second_bias"))


def _gated(own: "Mapping[str, torch.Tensor]", inner: "torch.Tensor") -> "torch.Tensor":
    import torch

    kv_heads = len(own["sinks"])
    count = len(inner)
    parts = inner.view(count, -1, GATE_WIDTH)
    parts = parts * torch.rsqrt(parts.square().mean(-1, keepdim=True) + _EPSILON)
    queries = (parts[:, :-kv_heads] * own["norms"][0]).view(count, kv_heads, -1, GATE_WIDTH)
    keys = parts[:, -kv_heads:, None] * own["norms"][1]
    z = (queries * keys).sum(-1) / GATE_WIDTH**0.5 + own["bias"].view(kv_heads, -1)
    others = torch.einsum("thgd,hsd->thgs", queries, own["sinks"])
    return torch.sigmoid(z - torch.logsumexp(others, dim=-1)).mean(-1)


def retaining(design: HeadDesign, layers: "Sequence[Mapping[str, torch.Tensor]]") -> RetainingHeads:
    """Return trained numbers as what runs."""
    found = tuple(
        LayerHeads(**{name: part.detach().float().numpy().copy() for name, part in own.items()})
        for own in layers
    )
    return RetainingHeads(design.kind, design.reads, design.activation, found)
