"""What heads learn: how much the entries of a prompt will be looked at, by each KV head.

An entry that no query may see (a sliding window) has no target: minus infinity.
"""

from typing import TYPE_CHECKING

import numpy as np

from treadle.core.shapes import Float, Tensor
from treadle.runtime.probe import LayerInputs

if TYPE_CHECKING:
    import torch

__all__ = ["NUM_SINKS", "causal_importance", "repeated_attention"]

NUM_SINKS = 4
"""First tokens of a text that every softmax of KVzip sees."""


def causal_importance(
    layer: LayerInputs, num_prompt: int, window: int | None, softcap: float = 0.0
) -> Float[Tensor, "prompt kv_heads"]:
    """Return the largest scaled logit, before softmax, that the answer's queries give an entry.

    Args:
        layer: Of the rows of a sample, prompt and answer.
        num_prompt: Rows of the prompt.
        window: What the layer sees.
        softcap: Of its logits; 0 for none.
    """
    import torch

    queries = torch.from_numpy(layer.turned_queries)[num_prompt:]
    keys = torch.from_numpy(layer.turned_keys)[:num_prompt]
    rows = torch.arange(num_prompt, num_prompt + len(queries))
    hidden = _is_hidden(rows, torch.arange(num_prompt), window)
    found = []
    for own, key in _by_head(queries, keys):
        logits = _capped(own @ key.T * layer.scale, softcap)
        found.append(logits.masked_fill(hidden, -torch.inf).amax(dim=(0, 1)))
    return torch.stack(found, dim=1)


def repeated_attention(
    layer: LayerInputs,
    chunk: range,
    first_repeat: int,
    window: int | None,
    softcap: float = 0.0,
    output: Float[Tensor, "hidden inputs"] | None = None,
    states: "np.ndarray | None" = None,
) -> Float[Tensor, "chunk kv_heads"]:
    """Return the largest attention that entries get while their text is repeated (KVzip).

    The softmax of a query runs over the first tokens (sinks), the chunk, and the repeated text up
    to the query.

    Args:
        layer: Of the rows of the context and of what repeats the chunk.
        chunk: Rows of the context that are repeated.
        first_repeat: Row with which the repetition begins; it goes to the end.
        window: What the layer sees.
        softcap: Of its logits; 0 for none.
        output: The matrix behind attention. With it (KVzip+) a query's attention counts times
            ‖W_O v‖ / ‖h‖ of the entry's value v and the query's state h.
        states: [rows, hidden] of the residual stream that the layer reads; with `output`.
    """
    import torch

    queries = torch.from_numpy(layer.turned_queries)[first_repeat:]
    num_rows = len(layer.turned_keys)
    sinks = range(min(NUM_SINKS, chunk.start))
    places = torch.tensor([*sinks, *chunk, *range(first_repeat, num_rows)])
    keys, values = (torch.from_numpy(part) for part in (layer.turned_keys, layer.values))
    hidden = _is_hidden(torch.arange(first_repeat, num_rows), places, window)
    wanted = slice(len(sinks), len(sinks) + len(chunk))
    found = []
    for number, (own, key) in enumerate(_by_head(queries, keys[places])):
        logits = _capped(own @ key.T * layer.scale, softcap).masked_fill(hidden, -torch.inf)
        given = torch.softmax(logits, dim=-1)[..., wanted]
        if output is not None and states is not None:
            value = values[chunk.start : chunk.stop, number]
            weight = _moved(output, value, number, len(own))
            given = given * weight[:, None] / _lengths(states[first_repeat:])[:, None]
        found.append(given.amax(dim=(0, 1)))
    largest = torch.stack(found, dim=1)
    return largest.masked_fill(hidden[:, wanted].all(dim=0)[:, None], -torch.inf)


def _is_hidden(rows: "torch.Tensor", places: "torch.Tensor", window: int | None) -> "torch.Tensor":
    """Return [rows, places]: what lies behind a row, or before its window."""
    apart = rows[:, None] - places
    return (apart < 0) if window is None else (apart < 0) | (apart >= window)


def _by_head(
    queries: "torch.Tensor", keys: "torch.Tensor"
) -> "list[tuple[torch.Tensor, torch.Tensor]]":
    """Return the queries [group, rows, dim] that read each KV head, and its keys [places, dim]."""
    kv_heads = keys.shape[1]
    groups = queries.transpose(0, 1).reshape(kv_heads, -1, len(queries), queries.shape[2])
    return [(groups[head], keys[:, head]) for head in range(kv_heads)]


def _capped(logits: "torch.Tensor", softcap: float) -> "torch.Tensor":
    return logits if not softcap else softcap * (logits / softcap).tanh()


def _moved(
    output: "torch.Tensor", value: "torch.Tensor", number: int, group: int
) -> "torch.Tensor":
    """Return [group, chunk]: how far the values move the stream, through each query head."""
    import torch

    dim = value.shape[1]
    columns = output.reshape(len(output), -1, dim)[:, number * group : (number + 1) * group]
    found: torch.Tensor = torch.linalg.vector_norm(columns.permute(1, 0, 2) @ value.T, dim=1)
    return found


def _lengths(states: np.ndarray) -> "torch.Tensor":
    import torch

    lengths: torch.Tensor = torch.linalg.vector_norm(torch.from_numpy(states), dim=1)
    return lengths.clamp(min=1e-9)
