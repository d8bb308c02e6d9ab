"""The tables of the family's axes."""

from treadle.core.registry import Registry
from treadle.shrink.prune.base import Allocation, BlockScore, Metric, Update

__all__ = ["ALLOCATIONS", "BLOCK_SCORES", "METRICS", "UPDATES"]

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
BLOCK_SCORES: Registry[BlockScore] = Registry(
    "block score",
    {
        "any_block": f"{_METHODS}.any_block:AnyBlock",
        "shallow_first": f"{_METHODS}.shallow_first:ShallowFirst",
        "influence": f"{_METHODS}.influence:Influence",
    },
)
