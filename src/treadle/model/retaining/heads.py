"""Trained heads that score what enters the cache: how much later tokens will look at it."""

import hashlib
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from treadle.core.errors import CheckpointError

__all__ = ["GATE_WIDTH", "LayerHeads", "RetainingHeads", "require_shape"]

Floats = npt.NDArray[np.float32]

GATE_WIDTH = 16
"""Numbers of a gate's query or key."""


class LayerHeads(NamedTuple):
    """One layer's numbers. Which of them there are follows from the kind."""

    first: Floats
    """[width, inputs]. Of a gate: GATE_WIDTH rows for each query head, then for each KV head."""
    first_bias: Floats | None = None
    """[width]"""
    second: Floats | None = None
    """[kv_heads, width], of an mlp."""
    second_bias: Floats | None = None
    """[kv_heads]"""
    norms: Floats | None = None
    """[2, GATE_WIDTH] weights of the gate's norms of queries and keys."""
    sinks: Floats | None = None
    """[kv_heads, sinks, GATE_WIDTH] keys that compete with a token's own."""
    bias: Floats | None = None
    """[heads] of a gate."""


class RetainingHeads(NamedTuple):
    """Scores of each layer and KV head, from a token's own numbers alone (so they are causal).

    With x what a layer's heads read of a token,

    - linear: first x + first_bias, one row for each KV head;
    - mlp: second act(first x + first_bias) + second_bias;
    - gate: q, k = norm(first x) by parts of GATE_WIDTH (RMS norms, eps 1e-6, times their weights);
      z = q.k / 4 + bias, z_s = q.sink_s; the mean over a KV head's query heads of
      1 / (1 + sum over s of exp(z_s - z)).
    """

    kind: Literal["linear", "mlp", "gate"]
    reads: Literal["projections", "hidden"]
    """x is [queries, keys, values], as attention's matrices give them (before norms of heads and
    rotary embedding); or what these matrices read: the normed state before attention."""
    activation: Literal["silu", "gelu", "relu"]
    """Of an mlp; gelu is the exact one."""
    layers: tuple[LayerHeads, ...]

    @property
    def digest(self) -> str:
        """A hash of everything: requests of other heads keep other entries."""
        found = hashlib.sha256(f"{self.kind} {self.reads} {self.activation}".encode())
        for number, layer in enumerate(self.layers):
            for name, part in layer._asdict().items():
                if part is not None:
                    found.update(f"{number} {name} {part.shape}".encode())
                    found.update(np.ascontiguousarray(part, np.float32).tobytes())
        return found.hexdigest()


def require_shape(
    heads: RetainingHeads, shapes: Sequence[tuple[int, int, int]], hidden_size: int
) -> None:
    """Refuse heads that do not fit a model.

    Args:
        heads: The heads.
        shapes: Query heads, KV heads and width of a head, of each layer.
        hidden_size: Of the residual stream.

    Raises:
        CheckpointError: They do not.
    """
    if len(heads.layers) != len(shapes):
        raise CheckpointError(
            f"The retaining heads are of a model of {len(heads.layers)} layers, and this one has "
            f"{len(shapes)}; train them on this model (treadle sparsify)."
        )
    for number, (layer, (queries, kv_heads, dim)) in enumerate(
        zip(heads.layers, shapes, strict=True)
    ):
        of_all = (queries + 2 * kv_heads) * dim
        inputs = of_all if heads.reads == "projections" else hidden_size
        expected = _shapes(heads.kind, layer, inputs, queries, kv_heads)
        for name, part in layer._asdict().items():
            found, right = None if part is None else part.shape, expected[name]
            if found != right and not (found is None and name in _OPTIONAL):
                raise CheckpointError(
                    f"The retaining heads of layer {number} have a '{name}' of shape {found}, and "
                    f"this model takes {right}; train them on this model (treadle sparsify)."
                )
            if part is not None and not np.isfinite(part).all():
                raise CheckpointError(
                    f"The retaining heads of layer {number} have a '{name}' with numbers that are "
                    f"not finite; train them again, at a lower --learning-rate."
                )


_OPTIONAL = ("first_bias", "second_bias")
Shape = tuple[int, ...]


def _shapes(
    kind: str, layer: LayerHeads, inputs: int, queries: int, kv_heads: int
) -> dict[str, Shape | None]:
    """Return the shape that each part of a layer's heads has; None: it has none."""
    width = {"linear": kv_heads, "gate": (queries + kv_heads) * GATE_WIDTH}.get(
        kind, max(1, len(layer.first))
    )
    found: dict[str, Shape | None] = dict.fromkeys(LayerHeads._fields)
    found |= {"first": (width, inputs)}
    if kind == "gate":
        num_sinks = layer.sinks.shape[1] if layer.sinks is not None and layer.sinks.ndim == 3 else 1
        sinks = (kv_heads, max(1, num_sinks), GATE_WIDTH)
        return found | {"norms": (2, GATE_WIDTH), "sinks": sinks, "bias": (queries,)}
    found["first_bias"] = (width,)
    if kind == "mlp":
        found |= {"second": (kv_heads, width), "second_bias": (kv_heads,)}
    return found
