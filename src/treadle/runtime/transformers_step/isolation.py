"""Whether a model's numbers follow from one text alone, however its rows are brought to it.

A model of transformers may count places by itself, carry a state from row to row beside its
attention, or let rows share something else; over pages it would answer, and wrongly. So every model
is tried: two short texts, in chunks and side by side, against its own pass over each of them whole.
"""

from typing import Any

import numpy as np

from treadle.core.errors import UnsupportedModelError
from treadle.runtime.cache.device import DeviceKeyValues
from treadle.runtime.cache.pages import KeyValues
from treadle.runtime.executor import Executor, Floats, Ints, StepRows
from treadle.runtime.transformers_step.shape import not_paged

__all__ = ["require_isolation"]

_NUM_TOKENS = 6
_CHUNKS = ((1, 4), (3, 1), (2, 1))
"""Rows of each text in each step."""
_MOST_NOISE = 0.02
"""Root mean square of the differences over the logits' standard deviation. Other orders of summing
give 2e-5 at most on 74 architectures of random weights, and what is wrong gives 0.3 and more."""


def require_isolation(module: Any, executor: Executor, device: Any) -> None:
    """Compare a step with the model's own pass; peak memory is that of a few tokens.

    Args:
        module: A causal LM of transformers, on `device`.
        executor: Its step.
        device: Of torch.

    Raises:
        UnsupportedModelError: They differ.
        CheckpointError: The model fails by itself, too.
    """
    import torch

    shape = executor.shape
    most = shape.rope_lengths.within_first(min(_NUM_TOKENS, shape.max_positions))
    tokens = np.random.default_rng(0).integers(0, shape.vocab_size, (2, most), np.int32)
    try:
        with torch.inference_mode():
            own = module(input_ids=torch.from_numpy(tokens).to(device, torch.int64)).logits
        found = _in_chunks(executor, tokens, device)
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise not_paged(module, error) from error
    expected = own.float().cpu().numpy()
    apart = float(np.sqrt(np.square(found - expected, dtype=np.float64).mean()))
    noise = apart / max(float(expected.std()), 1e-30)
    if not noise <= _MOST_NOISE:
        raise UnsupportedModelError(
            f"{type(module).__name__} gives other numbers in chunks and beside other texts than "
            f"for a whole text ({noise:.2g} of the logits' spread): its rows share more than what "
            f"its attention reads. Run this model with transformers."
        )


def _in_chunks(executor: Executor, tokens: Ints, device: Any) -> Floats:
    """Return the logits [2, tokens, vocab] of two texts that run in chunks, side by side."""
    size, shape = tokens.shape[1], executor.shape
    pool = KeyValues(shape.kv_heads, shape.head_dim, 2, size, "fp32")
    if device.type != "cpu":
        pool = DeviceKeyValues(shape.kv_heads, shape.head_dim, 2, size, "fp32", str(device))
    found, done = np.zeros((2, size, shape.vocab_size), np.float32), [0, 0]
    for chunk in _CHUNKS:
        ends = [min(size, first + count) for first, count in zip(done, chunk, strict=True)]
        texts = [n for n in range(2) if ends[n] > done[n]]
        places = [np.arange(done[n], ends[n], dtype=np.int32) for n in texts]
        counts = [len(own) for own in places]
        rows = StepRows(
            np.concatenate([tokens[n, own] for n, own in zip(texts, places, strict=True)]),
            np.concatenate(places),
            np.concatenate([own + n * size for n, own in zip(texts, places, strict=True)]),
            np.cumsum([0, *counts], dtype=np.int32),
            np.asarray([ends[n] for n in texts], np.int32),
            np.arange(len(texts) + 1, dtype=np.int32),
            np.asarray(texts, np.int32),
            np.arange(sum(counts), dtype=np.int32),
        )
        logits = np.split(executor.forward(rows, pool), np.cumsum(counts)[:-1])
        for n, own, values in zip(texts, places, logits, strict=True):
            found[n, own] = values
        done = ends
    return found
