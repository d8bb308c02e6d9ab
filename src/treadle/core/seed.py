"""Named random streams from one seed, so that results do not depend on order, shards or workers."""

import hashlib
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

__all__ = ["numpy_stream", "stream_seed", "torch_stream"]


def stream_seed(seed: int, name: str) -> int:
    """Return the 63-bit seed of the stream `name` under `seed`.

    Two names give independent streams; the value never depends on which streams were asked for
    before.
    """
    digest = hashlib.sha256(f"treadle:{seed}:{name}".encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def numpy_stream(seed: int, name: str) -> np.random.Generator:
    """Return a fresh numpy generator for the stream `name`."""
    return np.random.Generator(np.random.Philox(stream_seed(seed, name)))


def torch_stream(seed: int, name: str) -> "torch.Generator":
    """Return a fresh CPU torch generator for the stream `name`."""
    import torch

    return torch.Generator().manual_seed(stream_seed(seed, name))
