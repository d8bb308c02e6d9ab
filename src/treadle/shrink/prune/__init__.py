"""Prune: which weights stay, and with what values.

A pruning run is a point on four axes: the *metric* scores weights, the *pattern* says among which
of them the lowest are removed, the *update* repairs the survivors, and the *allocation* shares the
sparsity out over the blocks.
"""

from treadle.core.registry import Registry
from treadle.shrink.prune.base import Allocation, Metric, Update

__all__ = ["ALLOCATIONS", "METRICS", "UPDATES", "prune"]

_METHODS = "treadle.shrink.prune.methods"

METRICS: Registry[Metric] = Registry(
    "prune metric",
    {
        "random": f"{_METHODS}.random:Random",
        "magnitude": f"{_METHODS}.magnitude:Magnitude",
        "wanda": f"{_METHODS}.wanda:Wanda",
        "ria": f"{_METHODS}.ria:RIA",
        "gblm": f"{_METHODS}.gblm:GBLM",
        "pruner_zero": f"{_METHODS}.pruner_zero:PrunerZero",
        "sparsegpt": f"{_METHODS}.sparsegpt:SparseGPT",
    },
)
UPDATES: Registry[Update] = Registry(
    "prune update",
    {"none": f"{_METHODS}.none:NoUpdate", "obs": f"{_METHODS}.obs:OBS"},
)
ALLOCATIONS: Registry[Allocation] = Registry(
    "prune allocation",
    {"uniform": f"{_METHODS}.uniform:Uniform", "owl": f"{_METHODS}.owl:OWL"},
)

from treadle.shrink.prune.apply import prune  # noqa: E402  # the driver reads the tables above
