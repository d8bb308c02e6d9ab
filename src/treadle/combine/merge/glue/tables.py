"""The table of searches."""

from treadle.combine.merge.glue.base import Search
from treadle.core.registry import Registry

__all__ = ["SEARCHES"]

_METHODS = "treadle.combine.merge.glue.methods"

SEARCHES: Registry[Search] = Registry(
    "search of merge weights",
    {
        "coefficient": f"{_METHODS}.coefficient:Coefficient",
        "average": f"{_METHODS}.average:Average",
        "similarity": f"{_METHODS}.similarity:Similarity",
        "cmaes": f"{_METHODS}.cmaes:CmaEs",
        "random_weights": f"{_METHODS}.random_weights:RandomWeights",
        "uniform": f"{_METHODS}.uniform:Uniform",
    },
)
