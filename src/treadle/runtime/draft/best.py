"""The best few of many logits, without sorting a vocabulary."""

import numpy as np
import numpy.typing as npt

__all__ = ["best_tokens"]

_BLOCK = 128


def best_tokens(logits: npt.NDArray[np.float32], count: int) -> npt.NDArray[np.int64]:
    """Return the tokens [rows, count] of the largest logits [rows, vocab], largest first.

    The `count` largest stand in the `count` blocks whose own largest are the largest: only those
    are looked through. Which of equal ones are taken is not said.
    """
    rows, vocab = logits.shape
    num_blocks = vocab // _BLOCK
    if num_blocks <= 2 * count:
        return _sorted(logits, np.broadcast_to(np.arange(vocab), logits.shape), count)
    inside = logits[:, : num_blocks * _BLOCK].reshape(rows, num_blocks, _BLOCK)
    blocks = np.argpartition(inside.max(axis=2), num_blocks - count, axis=1)[:, -count:]
    places = (blocks[:, :, None] * _BLOCK + np.arange(_BLOCK)).reshape(rows, -1)
    rest = np.broadcast_to(np.arange(num_blocks * _BLOCK, vocab), (rows, vocab % _BLOCK))
    places = np.concatenate([places, rest], axis=1)
    return _sorted(np.take_along_axis(logits, places, 1), places, count)


def _sorted(
    values: npt.NDArray[np.float32], places: npt.NDArray[np.int64], count: int
) -> npt.NDArray[np.int64]:
    count = min(count, values.shape[1])
    likely = np.argpartition(values, values.shape[1] - count, axis=1)[:, values.shape[1] - count :]
    order = np.argsort(-np.take_along_axis(values, likely, 1), axis=1, kind="stable")
    found: npt.NDArray[np.int64] = np.take_along_axis(
        places, np.take_along_axis(likely, order, 1), 1
    )
    return found
