"""Prune: which weights stay, and with what values.

A pruning run is a point on four axes: the *metric* scores weights, the *pattern* says among which
of them the lowest are removed, the *update* repairs the survivors, and the *allocation* shares the
sparsity out over the blocks. The action *blocks* drops whole blocks.
"""

from treadle.shrink.prune.apply import prune
from treadle.shrink.prune.depth import prune_blocks
from treadle.shrink.prune.tables import ALLOCATIONS, BLOCK_SCORES, METRICS, UPDATES

__all__ = ["ALLOCATIONS", "BLOCK_SCORES", "METRICS", "UPDATES", "prune", "prune_blocks"]
