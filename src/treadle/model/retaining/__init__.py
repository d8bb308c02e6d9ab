"""Trained heads that say which entries of the cache stay: their numbers, and their side file."""

from treadle.model.retaining.files import KIND, file_name, read_heads, write_heads
from treadle.model.retaining.heads import (
    GATE_WIDTH,
    LayerHeads,
    RetainingHeads,
    require_shape,
)

__all__ = [
    "GATE_WIDTH",
    "KIND",
    "LayerHeads",
    "RetainingHeads",
    "file_name",
    "read_heads",
    "require_shape",
    "write_heads",
]
